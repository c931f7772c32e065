"""Models larger than one GPU: which block goes where, and the same logits through accelerate's hooks."""

import pytest
import torch

from model import DCFormerConfig, Engine, load_model
from model.checkpoints import ModelLoadError, load, spread
from model.checkpoints.assemble import empty_model
from model.memory import Run, engine_peak
from tests.checkpoint_dirs import random_model, write_published
from tests.models import small_model, some_tokens

CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def large():
    return empty_model(DCFormerConfig.preset("dcpythia-6.9b", n_layers=8, dtype="bfloat16"))


@pytest.fixture(scope="module")
def sizes(large):
    """Bytes of all weights, of one block, and of one prompt as long as the context."""
    cfg = large.cfg
    weights, block = (sum(p.nbytes for p in module.parameters()) for module in (large, large.blocks[0]))
    return weights, block, sum(engine_peak(Run(cfg, "last", 1, 2048, 2048, cfg.dtype, "cuda"))[0].values())


def test_a_model_goes_whole_to_the_first_gpu_with_room_for_a_prompt_too(large, sizes):
    weights, _, prompt = sizes
    assert spread.place(large, CUDA, {0: weights + prompt, 1: 2 * weights}) == {"": 0}
    assert spread.place(large, CUDA, {0: weights + prompt - 1, 1: weights + prompt}) == {"": 1}


def test_else_its_blocks_go_to_several_in_order_each_with_room_for_a_prompt(large, sizes):
    weights, block, prompt = sizes
    free = dict.fromkeys(range(3), weights // 3 + 2 * block + prompt)
    devices = spread.place(large, CUDA, free)
    of_blocks = [devices[f"blocks.{layer}"] for layer in range(8)]
    assert of_blocks == sorted(of_blocks)
    assert len(set(of_blocks)) > 1
    assert devices["embed"] == 0
    for gpu, room in free.items():
        held = sum(p.nbytes for name, p in large.named_parameters() if spread.device_of(devices, name).index == gpu)
        assert held + prompt <= room


def test_one_gpu_that_holds_the_weights_is_used_for_shorter_prompts(large, sizes):
    assert spread.place(large, CUDA, {0: sizes[0]}) == {"": 0}


def test_a_model_for_which_all_gpus_are_too_small_is_refused(large):
    with pytest.raises(ModelLoadError, match=r"need 3\.8 GiB in bfloat16, but free are cuda:0 1\.0 GiB, "):
        spread.place(large, CUDA, {0: 2**30, 1: 2**31})


def test_a_model_too_large_for_the_device_asked_for_is_refused(large, monkeypatch):
    monkeypatch.setattr(spread, "free_memory", lambda device: 3 * 2**30)
    with pytest.raises(ModelLoadError, match=r"need 3\.8 GiB in bfloat16, but cpu has 3\.0 GiB free\. Use another"):
        spread.place(large, torch.device("cpu"))


def test_tied_embeddings_stay_together():
    model = empty_model(DCFormerConfig.preset("dcpythia-6.9b", n_layers=8, dtype="bfloat16", tie_embeddings=True))
    devices = spread.place(model, CUDA, {0: 3 * 2**30, 1: 3 * 2**30})
    assert len(set(devices.values())) == 2
    assert spread.device_of(devices, "embed.W_E") == spread.device_of(devices, "unembed.weight")


def test_loading_puts_every_weight_and_buffer_where_the_map_says(tmp_path, monkeypatch):
    # the meta device stands for a second one: it holds no values, but says that it was chosen
    devices = {"embed": "cpu", "blocks.0": "cpu", "blocks.1": "meta", "blocks.2": "meta", "ln_final": "meta"}
    devices["unembed"] = "meta"
    dispatched = []
    monkeypatch.setattr(load.spread, "place", lambda model, device, gpus: devices)
    monkeypatch.setattr(load.spread, "dispatch", lambda model, devices: dispatched.append(devices) or model)
    source = random_model()
    model = load_model(write_published(source, tmp_path / "model"), device="cpu")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert tensor.device.type == ("cpu" if name.startswith(("embed", "blocks.0")) else "meta"), name
    assert torch.equal(model.blocks[0].mlp.w_in.weight, source.blocks[0].mlp.w_in.weight)
    assert dispatched == [devices]
    assert model.cfg.device == "cpu"


@pytest.mark.parametrize("tied", [False, True])
def test_a_dispatched_model_gives_the_same_logits_with_and_without_hooks(tied):
    model, tokens = small_model(tie_embeddings=tied), some_tokens(2, 9)
    edit = [("blocks.1.attn.pre.hook_query_gate", lambda gate, hook: gate * 0)]
    plain, edited, grown = model(tokens), model.run_with_hooks(tokens, fwd_hooks=edit), model.generate(tokens, 3)
    parts = {"embed": "cpu", "blocks": "cpu", "ln_final": "cpu", "unembed": "cpu"}
    model = spread.dispatch(model, parts)
    assert torch.equal(model(tokens), plain)
    assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=edit), edited)
    assert torch.equal(model.generate(tokens, 3), grown)
    torch.testing.assert_close(Engine(model)(tokens), plain)
    assert (model.unembed.weight is model.embed.W_E) == tied
