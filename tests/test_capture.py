"""Capture: maps, matrices and attributions rebuilt from factors."""

import sys

import pytest
import torch

from model import Engine, Recorder, capture
from tests.models import VARIANTS, small_model, some_tokens

T = 11


@pytest.mark.parametrize("variant", VARIANTS)
def test_rebuilt_maps_are_the_models_own(variant):
    model, tokens = small_model(variant), some_tokens(T)
    logits, cache = model.run_with_cache(tokens)
    run = capture(model, tokens)
    torch.testing.assert_close(run.logits, logits[0].float(), rtol=0, atol=1e-5)
    for layer in range(model.cfg.n_layers):
        for stage, name in (("raw", "attn_scores_raw"), ("composed", "attn_scores")):
            truth = cache[f"blocks.{layer}.attn.hook_{name}"][0].float()
            torch.testing.assert_close(run.scores(layer, stage), truth, rtol=0, atol=1e-5)
        for stage, name in (("raw", "pattern_raw"), ("composed", "pattern")):
            truth = cache[f"blocks.{layer}.attn.hook_{name}"][0].float()
            torch.testing.assert_close(run.pattern(layer, stage), truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["llama windows", "groups", "key side", "plain"])
@pytest.mark.parametrize(
    "cut",
    [
        {"heads": 2},
        {"heads": [3, 0], "queries": slice(4, 9)},
        {"queries": [10, 2, 5], "keys": slice(0, 3)},
        {"heads": -1, "queries": -2, "keys": [7, 1]},
        {"keys": torch.tensor([9, 0, 4])},
    ],
)
def test_pieces_equal_the_same_pieces_of_whole_maps(variant, cut):
    run = capture(small_model(variant), some_tokens(T))
    index = [cut.get(name, slice(None)) for name in ("heads", "queries", "keys")]
    index = [[i] if isinstance(i, int) else i for i in index]
    for method in (run.scores, run.pattern):
        for stage in ("raw", "composed"):
            whole = method(1, stage)
            expected = whole[index[0]][:, index[1]][:, :, index[2]]
            torch.testing.assert_close(method(1, stage, **cut), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("wanted", [("pattern_compsed",), ("pattern_raw", "scores")])
def test_a_map_that_does_not_exist_is_refused(wanted):
    run = capture(small_model(), some_tokens(T))
    with pytest.raises(ValueError, match=f"There is no map '{wanted[-1]}'. Choose from scores_raw, scores_composed"):
        run.maps(1, wanted)
    with pytest.raises(ValueError, match="There is no map"):
        run.row(1, wanted[-1], 3)


def test_blocks_of_queries_do_not_show(monkeypatch):
    run = capture(small_model("llama windows"), some_tokens(T))
    whole = run.maps(0)
    monkeypatch.setattr(sys.modules["model.capture"], "BLOCK_CELLS", 4 * T * 2)  # two queries a block
    for name, value in run.maps(0).items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_matrix_of_a_pair_carries_the_raw_map_to_the_composed_one(variant):
    run = capture(small_model(variant), some_tokens(T))
    for layer, query, key in ((0, 8, 6), (1, 10, 10), (2, 10, 9)):
        for site, kind in (("pre", run.scores), ("post", run.pattern)):
            mix = run.mixing(layer, site)
            raw = kind(layer, "raw", queries=query, keys=key).flatten()
            composed = kind(layer, "composed", queries=query, keys=key).flatten()
            torch.testing.assert_close(raw @ mix.matrix(query, key), composed, rtol=0, atol=1e-5)
            torch.testing.assert_close(
                sum(mix.branches(query, key).values()), mix.matrix(query, key), rtol=0, atol=1e-5
            )
            split = mix.base() + mix.query_part(query) + mix.key_part(key)
            torch.testing.assert_close(split, mix.matrix(query, key), rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", ["llama windows", "query side", "plain", "groups"])
def test_a_row_holds_the_matrices_of_every_visible_key(variant):
    run = capture(small_model(variant), some_tokens(T))
    for layer in range(3):
        mix, window = run.mixing(layer, "pre"), run.cfg.keys_visible_in(layer)
        first = 0 if window is None else max(0, 9 - window + 1)
        truth = torch.stack([mix.matrix(9, key) for key in range(first, 10)])
        torch.testing.assert_close(mix.row(9), truth, rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_virtual_head_attributions_sum_to_the_attention_output(variant):
    model, tokens = small_model(variant), some_tokens(T)
    direction = torch.randn(model.cfg.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    _, cache = model.run_with_cache(tokens)
    run = capture(model, tokens)
    for layer in range(model.cfg.n_layers):
        attribution = run.virtual_head_attribution(layer, 8, direction)
        assert attribution.shape == (model.cfg.n_heads, model.cfg.n_heads)
        truth = (cache["attn_out", layer][0, 8] - model.blocks[layer].attn.b_O) @ direction
        torch.testing.assert_close(attribution.sum(), truth.detach().float(), rtol=1e-4, atol=1e-5)


def test_virtual_head_attribution_equals_its_definition():
    model, tokens = small_model("groups"), some_tokens(T)
    run, direction = capture(model, tokens), torch.randn(model.cfg.d_model, dtype=torch.float64)
    layer, query, attn = 1, 9, model.blocks[1].attn
    value = torch.einsum("jhk,hkd,d->jh", run.layers[layer].v, attn.W_O, direction).float()
    raw, mix = run.pattern(layer, "raw"), run.mixing(layer, "post")
    truth = sum(raw[:, query, j, None] * mix.matrix(query, j) * value[j][None] for j in range(query + 1))
    torch.testing.assert_close(run.virtual_head_attribution(layer, query, direction), truth.detach(), rtol=0, atol=1e-4)


def test_memory_grows_with_the_length_not_with_its_square():
    model = small_model("llama", n_ctx=600)
    short, long = (capture(model, some_tokens(n), logits=False) for n in (150, 600))
    assert long.nbytes == 4 * short.nbytes
    assert long.logits is None


def test_several_prompts_give_a_list_without_their_padding():
    model = small_model("llama windows")
    runs = capture(model, some_tokens(3, T))
    assert [len(run) for run in runs] == [T, T, T]
    alone = capture(model, some_tokens(3, T)[1])
    torch.testing.assert_close(runs[1].pattern(2), alone.pattern(2), rtol=0, atol=1e-6)
    assert capture(model, some_tokens(1, T)).tokens.shape == (T,)


def test_a_capture_sees_interventions_on_factors():
    model, tokens = small_model("llama"), some_tokens(T)
    with model.hooks(fwd_hooks=[(lambda name: ".post.hook_" in name, lambda x, hook: x * 0)]):
        run = capture(model, tokens)
    torch.testing.assert_close(run.pattern(1, "composed"), run.pattern(1, "raw"), rtol=0, atol=1e-7)
    assert not torch.allclose(run.scores(1, "composed")[:, 5, :6], run.scores(1, "raw")[:, 5, :6])
    with (
        model.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", lambda x, hook: x * 0)]),
        pytest.raises(ValueError, match=r"Hooks stand on the attention maps of layers \[1\]"),
    ):
        capture(model, tokens)


def same_captures(one, other):
    assert torch.equal(one.tokens, other.tokens)
    torch.testing.assert_close(one.logits, other.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.final_scale, other.final_scale, rtol=0, atol=1e-5)
    assert sorted(one.layers) == sorted(other.layers)
    for layer in one.layers:
        for name, value in one.maps(layer).items():
            torch.testing.assert_close(value, other.maps(layer)[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_engines_capture_is_the_hooked_models(variant):
    model = small_model(variant)
    same_captures(capture(Engine(model), some_tokens(T)), capture(model, some_tokens(T)))


@pytest.mark.parametrize("variant", ["llama windows", "groups", "plain"])
def test_a_capture_of_generation_is_that_of_the_whole_sequence(variant):
    model, tokens = small_model(variant), some_tokens(5)
    run = capture(Engine(model), tokens, max_new_tokens=9)
    whole = model.generate(tokens, 9)
    same_captures(run, capture(model, whole[:-1]))


def test_a_recorder_keeps_chosen_layers_of_every_step():
    model = small_model("llama windows")
    engine, recorder = Engine(model), Recorder([2])
    with engine.tapped(recorder):
        out = engine.generate(some_tokens(1, 5), 4)
    mixing = recorder.layer(2).mixing["pre"]
    truth = capture(model, out[0, :-1]).layers[2].pre
    torch.testing.assert_close(mixing.query_down, truth.query_down, rtol=0, atol=1e-10)
    torch.testing.assert_close(mixing.key_gate, truth.key_gate, rtol=0, atol=1e-10)


def test_only_an_engine_captures_generation():
    with pytest.raises(ValueError, match=r"Only an engine captures generation\. Give Engine\(model\)"):
        capture(small_model(), some_tokens(T), max_new_tokens=3)


def test_chosen_layers_only():
    run = capture(small_model(), some_tokens(T), layers=[2])
    assert sorted(run.layers) == [2]
    with pytest.raises(ValueError, match=r"Layer 0 is not in this capture. It holds layers \[2\]"):
        run.pattern(0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.scores(7), "Layer 7 is not in this capture"),
        (lambda run: run.pattern(0, "mixed"), "Unknown stage 'mixed'"),
        (lambda run: run.mixing(0, "mid"), "Unknown site 'mid'"),
        (lambda run: run.pattern(0, heads=4), "Head 4 does not exist: there are 4, 0 to 3"),
        (lambda run: run.pattern(0, queries=[11]), "Query 11 does not exist"),
        (lambda run: run.pattern(0, keys=[]), "No key was chosen"),
        (lambda run: run.mixing(0).matrix(3, 11), "Key 11 does not exist: there are 11, 0 to 10"),
        (lambda run: run.virtual_head_attribution(0, 3, torch.zeros(5)), r"direction must be \[d_model=20\]"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(call, message):
    with pytest.raises(ValueError, match=message):
        call(capture(small_model(), some_tokens(T)))
