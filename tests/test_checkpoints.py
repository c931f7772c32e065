"""Every layout is read and written bit for bit, checked against files written without the code under test."""

import json

import pytest
import torch
from safetensors.torch import load_file

from model import HookedDCFormer, load_model, save_model
from model.checkpoints import ModelLoadError, published, save
from tests.checkpoint_dirs import (
    assert_same,
    published_config,
    published_tensors,
    random_model,
    write_directory,
    write_neox,
    write_published,
)
from tests.models import VARIANTS, relative_error, small_model, some_tokens

DYNAMIC = "layers.1.attention.dyn_w_proj"

PUBLISHED = {
    "dcformer": ("llama", {}),
    "two groups": ("llama", {"groups": 2}),
    "rank 3 in three groups": ("llama", {"groups": 3, "rank": 3}),
    "static": ("llama", {"static_mixing": True, "groups": 2}),
    "mgate": ("llama", {"mgate_groups": 5}),
    "no query/key norm": ("llama", {"use_qk_norm": False}),
    "all layers global": ("llama", {"visible_keys": None}),
    "end token": ("llama", {"eos_token_id": 7}),
    "plain": ("llama", {"compose": False}),
    "tied": ("llama", {"tie_embeddings": True}),
    "dcpythia": ("neox", {"rotary_dim": 2}),
    "dcpythia, sequential, no biases": ("neox", {"parallel_attn_mlp": False, "use_bias": False, "rotary_dim": None}),
    "plain dcpythia, tied": ("neox", {"compose": False, "tie_embeddings": True, "rotary_dim": 2}),
}
FILES = {
    "whole": {},
    "split": {"split_qkv": True},
    "parameters alone": {"derived": False},
    "shards": {"shards": 3},
    "torch file": {"torch_file": True},
    "torch shards": {"torch_file": True, "shards": 2, "split_qkv": True},
}


def published_model(variant, **fields):
    architecture, own = PUBLISHED[variant]
    return random_model(architecture, **(own | fields))


# -- published layouts -------------------------------------------------------------------------------


@pytest.mark.parametrize("files", FILES)
@pytest.mark.parametrize("variant", PUBLISHED)
def test_a_published_directory_is_read_bit_for_bit(variant, files, tmp_path):
    model = published_model(variant)
    assert_same(load_model(write_published(model, tmp_path / "m", **FILES[files])), model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", PUBLISHED)
def test_saving_in_the_published_layout_writes_those_files_and_reads_back(variant, dtype, tmp_path):
    model = published_model(variant, dtype=dtype)
    save_model(model, tmp_path / "m", layout="published")
    written, expected = load_file(tmp_path / "m/model.safetensors"), published_tensors(model, derived=False)
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) and written[name].dtype == dtype for name in expected)
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert {k: config[k] for k in published_config(model) if k in config} == {
        k: v for k, v in published_config(model).items() if k in config
    }
    loaded = load_model(tmp_path / "m")
    assert_same(loaded, model)
    assert loaded.cfg.eos_token_id == model.cfg.eos_token_id


def test_released_defaults_are_filled_in_where_config_json_is_silent(tmp_path):
    changes = dict.fromkeys(
        ("head_dim", "n_local_heads", "use_dcmha", "query_wise", "window_type", "intermediate_size")
    )
    model = random_model(d_model=48, d_head=8, d_mlp=256)  # 8/3 of 48, rounded up to a multiple of 256
    assert_same(load_model(write_published(model, tmp_path / "a", changes)), model)
    model = random_model("neox", d_mlp=96, rotary_dim=2)
    silent = dict.fromkeys(("intermediate_size", "use_linear_bias", "use_parallel_residual"))
    assert_same(load_model(write_published(model, tmp_path / "b", silent | {"rotary_pct": 0.5})), model)


@pytest.mark.parametrize(
    ("model_type", "kind", "size", "seen"),
    [
        ("dcformer", None, 5, "5.5.5.5.5"),
        ("dcformer", "LG", 5, "5.5.5.5.5"),
        ("dcformer", "LGLL", 5, "5.555.555"),
        ("dcformer", "LGL6", 5, "5.5555555"),
        ("dcformer", "LGLL", None, None),
        ("dcpythia", None, 5, "6.6.6.6.6"),
        ("dcpythia", "LGLL", 0, "1.111.111"),
        ("dcpythia", "LGL6", 5, "6.6666666"),
        ("dcpythia", None, None, None),
    ],
)
def test_windows_become_the_number_of_visible_keys_of_each_layer(model_type, kind, size, seen, tmp_path):
    architecture = {"dcformer": "llama", "dcpythia": "neox"}[model_type]
    model = random_model(
        architecture, n_layers=9, visible_keys=None, rotary_dim=2 if model_type == "dcpythia" else None
    )
    write_published(model, tmp_path / "m", {"window_type": kind, "window_size": size})
    loaded = load_model(tmp_path / "m")
    if seen is not None:
        seen = tuple(None if c == "." else int(c) for c in seen)
    assert loaded.cfg.visible_keys == seen
    save_model(loaded, tmp_path / "again", layout="published")
    assert load_model(tmp_path / "again").cfg.visible_keys == seen


def test_no_rotary_width_is_lost_in_its_share_of_the_head():
    # 98 * (54 / 98) is below 54 in floating point, and the reader rounds down
    assert int(98 * (54 / 98)) == 53
    for width in range(2, 99, 2):
        cfg = random_model(
            "neox", n_layers=1, n_heads=1, d_model=98, d_head=98, rotary_dim=width, visible_keys=None
        ).cfg
        assert int(98 * published.write_config(cfg)["rotary_pct"]) == width


def test_use_dcmha_false_is_a_plain_model_whatever_the_file_holds_beside_it(tmp_path):
    model = random_model()
    plain = load_model(write_published(model, tmp_path / "m", {"use_dcmha": False}))
    assert not plain.cfg.compose
    without_mixing = HookedDCFormer(model.cfg.replace(compose=False))
    shared = {name: weight for name, weight in model.state_dict().items() if ".mix_" not in name}
    without_mixing.load_state_dict(shared, strict=True)
    assert_same(plain, without_mixing)


# -- the static branch ---------------------------------------------------------------------------------


def test_one_static_matrix_makes_all_the_others_zero(tmp_path):
    tensors = published_tensors(random_model())
    W = torch.randn(1, 6, 6)
    tensors[f"{DYNAMIC}.post_proj.w"] = W
    del tensors["layers.2.attention.dyn_w_proj.pre_proj.w"]
    loaded = load_model(write_directory(tmp_path, published_config(random_model()), tensors))
    assert loaded.cfg.static_mixing
    for layer, block in enumerate(loaded.blocks):
        for site in ("pre", "post"):
            expected = W if (layer, site) == (1, "post") else torch.zeros(1, 6, 6)
            assert torch.equal(getattr(block.attn, site).static_blocks, expected)


def test_static_matrices_of_zeros_stay_a_static_model(tmp_path):
    model = random_model(static_mixing=True)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.pre.static_blocks.zero_(), block.attn.post.static_blocks.zero_()
    save_model(model, tmp_path / "m", layout="published")
    assert_same(load_model(tmp_path / "m"), model)


def test_a_static_matrix_that_is_the_identity_cannot_be_published(tmp_path):
    model = random_model(static_mixing=True)
    with torch.no_grad():
        model.blocks[2].attn.post.static_blocks.copy_(torch.eye(6)[None])
    with pytest.raises(ModelLoadError, match=r"blocks\.2\.attn\.post\.static_blocks is exactly the identity"):
        save_model(model, tmp_path / "m", layout="published")
    assert list(tmp_path.iterdir()) == []
    save_model(model, tmp_path / "m")
    assert_same(load_model(tmp_path / "m"), model)


# -- our own layout ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard_bytes", [save.MAX_SHARD_BYTES, 9000])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_model_round_trips_in_our_own_layout(variant, shard_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(save, "MAX_SHARD_BYTES", shard_bytes)
    model = small_model(variant, eos_token_id=3, model_name="a name")
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert_same(loaded, model)
    assert (loaded.cfg.eos_token_id, loaded.cfg.model_name) == (3, "a name")
    assert (tmp_path / "m/model.safetensors.index.json").exists() == (shard_bytes == 9000)


def test_a_loaded_model_is_ready_for_use(tmp_path):
    save_model(random_model(tie_embeddings=True), tmp_path / "m")
    model = load_model(str(tmp_path / "m"), device="cpu")
    assert not model.training
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in model.parameters())
    assert model.unembed.weight is model.embed.W_E
    assert (model.cfg.device, model.cfg.dtype, model.cfg.model_name) == ("cpu", torch.float32, "dcformer")
    assert not any(bias.any() for bias in (model.b_U, model.blocks[1].attn.b_Q, model.blocks[2].mlp.b_out))
    model(some_tokens(12, vocabulary=31), return_type="loss").backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(None, torch.float16), ("bf16", torch.bfloat16), ("float32", torch.float32), (torch.float64, torch.float64)],
)
def test_weights_take_the_dtype_asked_for_or_else_the_one_stored(dtype, expected, tmp_path):
    model = random_model()
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in published_tensors(model).items()}
    tensors["norm.weight"] = tensors["norm.weight"].float()  # one stray vector does not decide
    loaded = load_model(write_directory(tmp_path, published_config(model), tensors), dtype=dtype)
    assert {weight.dtype for weight in loaded.parameters()} == {loaded.cfg.dtype} == {expected}
    assert {buffer.dtype for buffer in loaded.buffers()} == {expected}
    assert torch.equal(loaded.W_E, tensors["tok_embeddings.weight"].to(expected))


# -- GPT-NeoX ------------------------------------------------------------------------------------------

NEOX = {
    "parallel": {},
    "sequential": {"use_parallel_residual": False},
    "no attention biases": {"attention_bias": False},
    "tanh GELU": {"hidden_act": "gelu_new"},
    "full rotary, other base": {"rotary_pct": 1.0, "rotary_emb_base": 500.0},
    "tied": {"tie_word_embeddings": True},
    "another eps": {"layer_norm_eps": 0.01, "eos_token_id": 4},
}


@pytest.mark.parametrize("variant", NEOX)
def test_gpt_neox_agrees_with_transformers(variant, tmp_path):
    theirs = write_neox(tmp_path / "m", **NEOX[variant])
    ours = load_model(tmp_path / "m", dtype="float64")
    tokens = some_tokens(2, 17, vocabulary=31)
    with torch.no_grad():
        assert relative_error(ours(tokens), theirs.double()(tokens).logits) < 1e-6  # their rotary table is float32
    assert not ours.cfg.compose
    assert ours.cfg.eos_token_id == NEOX[variant].get("eos_token_id")


def test_older_gpt_neox_files_are_read_too(tmp_path):
    theirs = write_neox(tmp_path / "new", rotary_pct=0.5, rotary_emb_base=300.0)
    config = json.loads((tmp_path / "new/config.json").read_text())
    assert "rope_parameters" in config
    config |= {"rope_parameters": None, "rope_scaling": None, "rotary_pct": 0.5, "rotary_emb_base": 300}
    tensors = load_file(tmp_path / "new/model.safetensors")
    attention = "gpt_neox.layers.1.attention"
    tensors |= {
        f"{attention}.bias": torch.ones(1, 1, 9, 9, dtype=torch.bool),
        f"{attention}.masked_bias": torch.zeros(()),
        f"{attention}.rotary_emb.inv_freq": torch.zeros(4),
    }
    ours = load_model(write_directory(tmp_path / "old", config, tensors, torch_file=True), dtype="float64")
    tokens = some_tokens(17, vocabulary=31)[None]
    with torch.no_grad():
        assert relative_error(ours(tokens), theirs.double()(tokens).logits) < 1e-6
