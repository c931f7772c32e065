"""What cannot be read, does not fit or would be computed wrongly is refused, and named."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from model import load_model, save_model
from model.checkpoints import ModelLoadError
from tests.checkpoint_dirs import (
    published_config,
    published_tensors,
    random_model,
    write_directory,
    write_neox,
    write_published,
)

DYNAMIC = "layers.1.attention.dyn_w_proj"


@pytest.mark.parametrize(
    ("architecture", "changes", "named"),
    [
        ("llama", {"n_local_heads": 2}, "'n_local_heads': 2"),
        ("llama", {"query_wise": True}, "'query_wise': true"),
        ("llama", {"model_type": "llama"}, "model_type 'llama', which is not supported. Known: .*dcformer.*gpt_neox"),
        ("llama", {"model_type": None}, "model_type None"),
        ("llama", {"model_type": ["dcformer"]}, "model_type"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4}}, "'rope_scaling'"),
        ("llama", {"rope_scaling": "yarn"}, "'rope_scaling': \"yarn\""),
        ("neox", {"rope_parameters": {"rope_type": "llama3"}}, "'rope_parameters'"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "'quantization_config'"),
        ("llama", {"window_type": "LLG"}, "'window_type': \"LLG\"; this layout needs one of LG, LGLL, LGL6"),
        ("llama", {"window_size": 0}, "'window_size': 0"),
        ("neox", {"window_size": -1}, "'window_size': -1"),
        ("llama", {"window_size": 2**64}, "'window_size': 18446744073709551616; .* at most 2147483647"),
        ("llama", {"block_size": None}, "no 'block_size'"),
        ("llama", {"head_dim": 8}, "'head_dim': 8; this layout needs 4"),
        ("llama", {"dim": 25}, "'dim': 25"),
        ("llama", {"n_layer": "3"}, "'n_layer': \"3\""),
        ("llama", {"n_layer": True}, "'n_layer': true"),
        ("llama", {"n_layer": 10**9}, "'n_layer': 1000000000; .* at most as many layers as there are tensors"),
        ("llama", {"rope_base": None}, "no 'rope_base'"),
        ("llama", {"norm_eps": -1e-6}, "'norm_eps': -1e-06"),
        ("llama", {"use_qk_norm": "yes"}, "'use_qk_norm': \"yes\""),
        ("llama", {"use_parallel_residual": True}, "'use_parallel_residual': true"),
        ("llama", {"rotary_pct": 0.25}, "'rotary_pct': 0.25"),
        ("llama", {"mgate": True, "mgate_dim": 7}, "d_mlp=20 cannot be cut into mgate_groups=7"),
        ("neox", {"mgate": True}, "'mgate': true"),
        ("llama", {"eos_token_id": [1, 2]}, r"'eos_token_id': \[1, 2\]"),
        ("llama", {"eos_token_id": 31}, "eos_token_id=31 is outside the vocabulary d_vocab=31"),
        ("llama", {"tie_word_embeddings": True}, "output.weight differs from tok_embeddings.weight"),
    ],
)
def test_what_would_be_computed_wrongly_is_refused_by_name(architecture, changes, named, tmp_path):
    write_published(random_model(architecture), tmp_path, changes)
    with pytest.raises(ModelLoadError, match=named):
        load_model(tmp_path)


def test_a_window_size_that_is_absent_is_not_taken_for_null(tmp_path):
    config = published_config(random_model())
    del config["window_size"]
    with pytest.raises(ModelLoadError, match="no 'window_size'; this layout needs the number of keys of a local layer"):
        load_model(write_directory(tmp_path, config, published_tensors(random_model())))


def test_every_missing_unexpected_or_misshapen_tensor_is_named(tmp_path):
    model = random_model()
    tensors = published_tensors(model)
    del tensors["norm.weight"], tensors[f"{DYNAMIC}.dd"]
    tensors["layers.3.attention.dyn_w_proj.sw"] = torch.zeros(2)  # of a layer that does not exist
    tensors["layers.1.attention.sinks"] = torch.zeros(6)
    tensors["layers.2.feed_forward.w2.weight"] = torch.zeros(20, 24)
    tensors["layers.2.ffn_norm.weight"] = torch.zeros(24, dtype=torch.int8)
    with pytest.raises(ModelLoadError) as caught:
        load_model(write_directory(tmp_path, published_config(model), tensors))
    message = str(caught.value)
    assert f"missing: {DYNAMIC}.dd, norm.weight;" in message
    assert "unexpected: layers.1.attention.sinks, layers.3.attention.dyn_w_proj.sw;" in message
    assert "of the wrong shape: layers.2.feed_forward.w2.weight ([20, 24], needed [24, 20]);" in message
    assert "of an unusable dtype: layers.2.ffn_norm.weight (I8)" in message


@pytest.mark.parametrize("name", ["dw1", "qkw", "dd", "pre_proj.w"])
@pytest.mark.parametrize("layer", [0, 2])
def test_mixing_tensors_of_another_shape_are_named(name, layer, tmp_path):
    tensors = published_tensors(random_model())
    name = f"layers.{layer}.attention.dyn_w_proj.{name}"
    tensors[name] = torch.randn(*tensors[name].shape[:-1], 5)
    with pytest.raises(ModelLoadError, match=f"of the wrong shape: .*{name}"):
        load_model(write_directory(tmp_path, published_config(random_model()), tensors))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_layers": 99}, "'n_layers': 99"),
        ({"d_model": 48}, r"of the wrong shape: embed\.W_E"),
        ({"use_bias": True}, r"missing: blocks\.0\.attn\.wqkv\.bias"),
        ({"compose": "false"}, "'compose': \"false\""),
        ({"eps": 0}, "'eps': 0"),
        ({"sites": 5}, "wrong type"),
        ({"sites": ["pre", "mid"]}, "sites="),
        ({"dropout": 0.1}, "Unknown configuration field dropout"),
        ({"dtype": "int4"}, "Unknown dtype 'int4'"),
    ],
)
def test_our_own_config_is_checked_too(changes, named, tmp_path):
    save_model(random_model(), tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text()) | changes
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match=named):
        load_model(tmp_path / "m")


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (lambda d: (d / "config.json").unlink(), "holds no config.json"),
        (lambda d: (d / "config.json").write_text("{'n_layer': 3}"), "config.json is not valid JSON"),
        (lambda d: (d / "config.json").write_text("[" * 100_000), "config.json is not valid JSON"),
        (lambda d: (d / "config.json").write_bytes(b"\xff\xfe{}"), "config.json is not valid JSON"),
        (lambda d: (d / "config.json").write_text("[1, 2]"), "must hold a JSON object, got list"),
        (lambda d: (d / "model.safetensors").unlink(), "holds no weights: expected model.safetensors"),
        (lambda d: _truncate(d / "model.safetensors"), "model.safetensors is not a readable safetensors file"),
        (lambda d: (d / "model.safetensors").write_bytes(b""), "model.safetensors is not a readable safetensors file"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\xff" * 64), "model.safetensors is not a readable"),
    ],
)
def test_unreadable_files_are_named(harm, named, tmp_path):
    write_published(random_model(), tmp_path)
    harm(tmp_path)
    with pytest.raises(ModelLoadError, match=named):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("shard", "named"),
    [
        ("../outside.safetensors", "a file beside its index"),
        ("/etc/passwd", "a file beside its index"),
        ("..", "a file beside its index"),
        ("a\\..\\b.safetensors", "a file beside its index"),
        ("sub/part.safetensors", "a file beside its index"),
        (7, "names the shard 7"),
        ("model-9.safetensors", "names the shard model-9.safetensors, which is missing"),
        ("model-00002-of-00003.safetensors", "places norm.weight in model-00002-of-00003.safetensors, which does not"),
    ],
)
def test_an_index_cannot_reach_outside_or_name_what_is_not_there(shard, named, tmp_path):
    write_published(random_model(), tmp_path / "m", shards=3)
    save_file({"norm.weight": torch.ones(24)}, tmp_path / "outside.safetensors")
    path = tmp_path / "m/model.safetensors.index.json"
    index = json.loads(path.read_text())
    assert index["weight_map"]["norm.weight"] != shard
    path.write_text(json.dumps(index | {"weight_map": index["weight_map"] | {"norm.weight": shard}}))
    with pytest.raises(ModelLoadError, match=named):
        load_model(tmp_path / "m")


class _Payload:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


def test_a_pickle_that_carries_code_is_refused_and_does_not_run(tmp_path):
    write_published(random_model(), tmp_path / "m", torch_file=True)
    path, victim = tmp_path / "m/pytorch_model.bin", tmp_path / "ran"
    torch.save({"norm.weight": _Payload(victim)}, path)
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin was refused: it holds Python objects"):
        load_model(tmp_path / "m")
    path.write_bytes(pickle.dumps(_Payload(victim)))
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin"):
        load_model(tmp_path / "m")
    assert not victim.exists()


QUANTIZED = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"state_dict": {"norm.weight": torch.ones(2)}}, {3: torch.ones(2)}, {"norm.weight": QUANTIZED}],
)
def test_a_torch_file_must_be_a_state_dict(content, tmp_path):
    write_published(random_model(), tmp_path, torch_file=True)
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin must hold"):
        load_model(tmp_path)


def test_a_torch_file_that_says_it_spans_disks_is_refused(tmp_path):
    write_published(random_model(), tmp_path, torch_file=True)
    path = tmp_path / "pytorch_model.bin"
    content = bytearray(path.read_bytes())
    locator = content.rindex(b"PK\x06\x07")  # of the end of the archive, zip64; its last field counts the disks
    content[locator + 16 : locator + 20] = (2).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin is not a readable torch checkpoint"):
        load_model(tmp_path)


def test_a_truncated_torch_file_is_named(tmp_path):
    write_published(random_model(), tmp_path, torch_file=True)
    _truncate(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin is not a readable torch checkpoint"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_act": "relu"}, "'hidden_act': \"relu\""),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_parameters"),
        ({"rope_parameters": "default"}, "'rope_parameters': \"default\"; this layout needs unscaled"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": 25}, "'hidden_size': 25"),
        ({"num_hidden_layers": None}, "no 'num_hidden_layers'"),
        ({"attention_bias": False}, r"unexpected: gpt_neox\.layers\.0\.attention\.\w+\.bias"),
    ],
)
def test_gpt_neox_that_would_be_computed_wrongly_is_refused(changes, named, tmp_path):
    write_neox(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match=named):
        load_model(tmp_path)
