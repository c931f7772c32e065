"""The engine gives the hooked model's logits, without hooks, with its very weights."""

import pytest
import torch

from model import Engine, HookedDCFormer, load_model
from model.free_memory import WillNotFit
from model.mixing import Mixing
from tests.models import VARIANTS, relative_error, small_config, small_model, some_tokens
from tests.test_running import padded


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_the_hooked_models(variant):
    model, tokens = small_model(variant), some_tokens(2, 13)
    engine = Engine(model)
    with torch.no_grad():
        truth = model(tokens)
    torch.testing.assert_close(engine(tokens), truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(engine(tokens, last=True), truth[:, -1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", ["llama windows", "neox", "original", "groups", "plain"])
def test_unequal_prompts_agree_with_the_hooked_model(variant):
    model = small_model(variant)
    tokens, mask = padded([some_tokens(n, seed=n) for n in (4, 9, 7)])
    with torch.no_grad():
        truth = model(tokens, attention_mask=mask)
    torch.testing.assert_close(Engine(model)(tokens, attention_mask=mask), truth, rtol=0, atol=1e-10)
    assert torch.equal(
        Engine(model).generate(tokens, 8, attention_mask=mask), model.generate(tokens, 8, attention_mask=mask)
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_greedy_continuation_is_the_hooked_models_beyond_the_window_too(variant):
    model, tokens = small_model(variant), some_tokens(2, 4)
    assert torch.equal(Engine(model).generate(tokens, 16), model.generate(tokens, 16))


@pytest.mark.parametrize("name", ["demo/dcformer", "demo/transformer"])
def test_64_greedy_tokens_of_the_bundled_pair(name):
    model = load_model(name)
    prompt = "< Mary has an apple. John has a violin. >. Who has violin?"
    assert Engine(model).generate(prompt, 64) == model.generate(prompt, 64)


def test_float32_and_bfloat16_stay_near_the_hooked_model():
    model, tokens = HookedDCFormer(small_config("llama windows", dtype=torch.float32), seed=0), some_tokens(2, 13)
    with torch.no_grad():
        exact = model(tokens)
    assert relative_error(Engine(model)(tokens), exact) < 1e-5
    model = model.to(torch.bfloat16)
    with torch.no_grad():
        assert relative_error(Engine(model)(tokens), model(tokens)) < 2e-2


def test_weights_are_shared_not_copied():
    model, tokens = small_model(), some_tokens(1, 6)
    engine, before = Engine(model), Engine(model)(tokens)
    with torch.no_grad():
        model.blocks[1].attn.mix_gates.mul_(3)
        truth = model(tokens)
    assert not torch.allclose(before, truth)
    torch.testing.assert_close(engine(tokens), truth, rtol=0, atol=1e-10)


def test_hooks_are_refused_rather_than_ignored():
    model, tokens = small_model(), some_tokens(1, 6)
    with (
        model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", lambda x, hook: x * 0)]),
        pytest.raises(ValueError, match=r"runs no hooks, but the model has 1, the first on blocks\.1\.attn\.hook_z"),
    ):
        Engine(model)(tokens)
    assert torch.isfinite(Engine(model)(tokens)).all()


def hook_edit(site: str, side: str | None, change):
    wanted = [f".{site}.hook_"] if side is None else [f".{site}.hook_{side}"]
    return [(lambda name: any(w in name for w in wanted), lambda x, hook: change(x))]


@pytest.mark.parametrize("steps", [(11,), (5, 1, 1, 1, 1, 1, 1)])
@pytest.mark.parametrize("variant", ["llama windows", "groups"])
def test_a_tap_that_changes_factors_equals_hooks_that_do(variant, steps):
    model, tokens = small_model(variant), some_tokens(2, 11)

    def halve_post(at):
        at.mixing["post"] = at.mixing["post"].with_factors(
            {name: factor * 0.5 for name, factor in at.mixing["post"].factors().items()}
        )

    with torch.no_grad():
        truth = model.run_with_hooks(tokens, fwd_hooks=hook_edit("post", None, lambda x: x * 0.5))
    engine = Engine(model)
    from model.key_cache import caches_for

    with torch.no_grad(), engine.tapped(halve_post):
        caches = caches_for(model.cfg.keys_visible, 11)
        found = torch.cat([engine(piece, caches=caches) for piece in tokens.split(steps, dim=1)], dim=1)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-10)
    assert not torch.allclose(engine(tokens), truth)  # the tap is gone


def test_identity_in_every_layer_is_the_uncomposed_twin():
    model, tokens = small_model("llama windows"), some_tokens(1, 9)
    plain = HookedDCFormer(model.cfg.replace(compose=False), seed=None)
    shared = {name: value for name, value in model.state_dict().items() if ".mix_" not in name}
    plain.load_state_dict(shared)

    def unmix(at):
        at.mixing.update(dict.fromkeys(("pre", "post"), Mixing(n_heads=model.cfg.n_heads)))

    engine = Engine(model)
    with engine.tapped(unmix), torch.no_grad():
        torch.testing.assert_close(engine(tokens), plain(tokens), rtol=0, atol=1e-10)


def test_taps_see_every_layer_of_every_step():
    model, seen = small_model(), []
    engine = Engine(model)
    with engine.tapped(lambda at: seen.append((at.layer, at.q.shape[1], at.mixing["pre"].query_gate.shape[1]))):
        engine.generate(some_tokens(1, 5), 3)
    assert seen == [(layer, n, n) for n in (5, 1, 1) for layer in range(3)]


def test_streamed_pieces_make_the_generated_text():
    model = load_model("demo/dcformer")
    prompt, engine = "Mary has an apple.", Engine(model)
    pieces = list(engine.stream(prompt, 24))
    assert prompt + "".join(pieces) == engine.generate(prompt, 24)
    assert len(pieces) > 10


def test_a_stop_text_ends_each_sequence_of_a_batch():
    model = load_model("demo/dcformer")
    prompts = ["Mary has an apple. John", "Anna went to the"]
    engine = Engine(model)
    whole, stopped = engine.generate(prompts, 40), engine.generate(prompts, 40, stop=".")
    for prompt, text, cut in zip(prompts, whole, stopped, strict=True):
        assert cut == prompt + text[len(prompt) :].split(".")[0]
    with pytest.raises(ValueError, match="empty stop text"):
        engine.generate(prompts, 4, stop=["", "x"])


# -- memory and devices ----------------------------------------------------------------------------


def test_running_out_of_memory_is_one_sentence_and_the_engine_goes_on(monkeypatch):
    engine, tokens = Engine(small_model()), some_tokens(2, 7)
    before = engine(tokens)

    def fails(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patched:
        patched.setattr("model.engine.composed_attention", fails)
        for run in (engine, engine.residual, lambda tokens: engine.generate(tokens, 2)):
            with pytest.raises(WillNotFit, match=r"Memory ran out on cpu: a .* of 2 x 7 tokens in float64 takes about"):
                run(tokens)
    assert torch.equal(engine(tokens), before)


def test_a_run_that_cannot_fit_is_refused_before_a_block_runs(monkeypatch):
    monkeypatch.setattr("model.free_memory.free_memory", lambda device: 10_000)
    monkeypatch.setattr("model.free_memory.CHECK_FROM", 20_000)
    engine, ran = Engine(small_model()), []
    with engine.tapped(ran.append):
        with pytest.raises(WillNotFit, match="A run for all logits of 2 x 20 tokens in float64 needs"):
            engine(some_tokens(2, 20))
        assert not ran
        engine(some_tokens(1, 1), last=True)
    assert len(ran) == 3


def test_activations_follow_the_blocks_from_device_to_device():
    # the meta device stands for a second GPU: it computes shapes only, and refuses tensors of another device
    engine = Engine(small_model("llama windows"))
    for part in (*engine.model.blocks[1:], engine.model.ln_final, engine.model.unembed):
        part.to("meta")
    seen = []
    with engine.tapped(lambda at: seen.append(at.q.device.type)):
        resid = engine.residual(some_tokens(2, 9), torch.ones(2, 9, dtype=torch.bool))
    assert seen == ["cpu", "meta", "meta"]
    assert (resid.device.type, resid.shape) == ("meta", (2, 9, 20))
