"""Virtual heads, score sources and mean circuits against loops, hooks and models whose mixing is frozen."""

import sys

import pytest
import torch

from benchmarks.virtual_heads import made_up_capture
from model import Engine, capture
from model.mixing import matrix
from probes import Intervention, MeanMixing, uncomposed_twin
from probes.pre_and_post import PreAndPost, pre_and_post, pre_and_post_of_layer
from probes.virtual_heads import (
    effective_ov,
    effective_qk,
    logit_direction,
    mean_matrix,
    ranked_virtual_heads,
    score_contrast,
    score_row,
    score_sources,
    virtual_heads,
)
from tests.models import VARIANTS, small_model, some_tokens

T, H, D = 11, 4, 20
EXACT = {"rtol": 0, "atol": 1e-10}
DIRECTION = torch.randn(D, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
BOTH_SITES = [name for name, (_, fields) in VARIANTS.items() if fields.get("compose", True) and "sites" not in fields]


@pytest.fixture(scope="module")
def run():
    return capture(small_model("llama windows"), some_tokens(T))


def cached(model, tokens):
    with torch.no_grad():
        return model.run_with_cache(tokens)


# -- outputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_pieces_sum_to_the_attention_output(variant):
    model, tokens = small_model(variant), some_tokens(T)
    _, cache = cached(model, tokens)
    run = capture(model, tokens)
    for layer, query in ((0, 8), (1, 0), (2, 10), (-1, -2)):
        heads = virtual_heads(run, layer, query, DIRECTION)
        truth = cache["attn_out", layer % 3][0, query] - model.blocks[layer].attn.b_O
        vectors = torch.stack([heads.vector(g, h) for g in range(H) for h in range(H)])
        torch.testing.assert_close(vectors.sum(0), truth, **EXACT)
        torch.testing.assert_close(heads.attribution.sum(), truth @ DIRECTION, **EXACT)
        torch.testing.assert_close(heads.attribution.flatten(), vectors @ DIRECTION, **EXACT)
        torch.testing.assert_close(heads.norm.flatten(), vectors.norm(dim=-1), rtol=0, atol=1e-7)
        assert (heads.layer, heads.query) == (layer % 3, query % T)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_piece_is_the_sources_raw_pattern_on_the_targets_values(variant):
    model, tokens = small_model(variant), some_tokens(T)
    _, cache = cached(model, tokens)
    run = capture(model, tokens)
    for layer, query in ((0, 9), (1, 6)):
        raw, v = (cache[f"blocks.{layer}.attn.hook_{name}"][0] for name in ("pattern_raw", "v"))
        outputs, weight, absolute = (
            torch.zeros(H, H, 6).double(),
            torch.zeros(H, H).double(),
            torch.zeros(H, H).double(),
        )
        for key in range(T):
            M = matrix(run.layers[layer].post, query, key).double()
            for g in range(H):
                for h in range(H):
                    part = raw[g, query, key] * M[g, h]
                    outputs[g, h] += part * v[key, h]
                    weight[g, h] += part
                    absolute[g, h] += part.abs()
        heads = virtual_heads(run, layer, query)
        torch.testing.assert_close(heads.outputs, outputs, **EXACT)
        torch.testing.assert_close(heads.weight, weight, **EXACT)
        torch.testing.assert_close(heads.absolute_weight, absolute, **EXACT)
        assert heads.attribution is None


def test_blocks_of_keys_do_not_show(run, monkeypatch):
    whole = virtual_heads(run, 1, 9, DIRECTION), score_contrast(run, 1, 9, 4)
    monkeypatch.setattr(sys.modules["model.capture"], "KEYS_AT_ONCE", 3)
    torch.testing.assert_close(virtual_heads(run, 1, 9, DIRECTION).outputs, whole[0].outputs, **EXACT)
    torch.testing.assert_close(score_contrast(run, 1, 9, 4), whole[1], **EXACT)
    torch.testing.assert_close(
        run.virtual_head_attribution(1, 9, DIRECTION), whole[0].attribution.float(), rtol=0, atol=1e-6
    )


def test_heads_that_do_not_mix_have_no_virtual_head():
    plain = virtual_heads(capture(small_model("plain"), some_tokens(T)), 1, 9)
    assert not plain.outputs[~torch.eye(H).bool()].any()
    torch.testing.assert_close(plain.weight, torch.eye(H).double(), **EXACT)  # rows of a raw pattern sum to 1
    groups = virtual_heads(capture(small_model("groups"), some_tokens(T)), 1, 9)
    between = 1 - torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))
    assert torch.equal((groups.norm == 0), between.bool())


@pytest.mark.parametrize(("dtype", "visible_keys"), [(torch.float32, None), (torch.bfloat16, 100)])
def test_a_layer_of_the_published_shape(dtype, visible_keys):
    run = made_up_capture("dcformer-2.8b", 512, dtype, visible_keys)
    at, direction = run.layers[0], torch.randn(2560, generator=torch.Generator().manual_seed(2))
    heads = virtual_heads(run, 0, 511, direction)
    composed = run.pattern(0, queries=511)[:, 0].double()
    z = torch.einsum("hs,shk->hk", composed, at.v.double())
    torch.testing.assert_close(heads.outputs.sum(0), z, rtol=1e-4, atol=1e-5)
    truth = torch.einsum("hk,hkd,d->", z, at.W_O.double(), direction.double())
    torch.testing.assert_close(heads.attribution.sum(), truth, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(heads.norm[3, 30], heads.vector(3, 30).norm(), **EXACT)
    sources = score_row(run, 0, 511, 17).sum(0)
    scores = run.scores(0, heads=17, queries=511, keys=run.keys_seen(0, 511))[0, 0].double()
    torch.testing.assert_close(sources, scores, rtol=1e-4, atol=1e-4)


# -- directions and tables -------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["llama", "neox", "original"])
def test_along_a_logit_direction_the_last_residual_stream_is_the_logit(variant):
    model, tokens = small_model(variant), some_tokens(T)
    logits, cache = cached(model, tokens)
    run = capture(model, tokens)
    last = cache["resid_post", 2][0, 7]
    bias = model.ln_final.b @ model.W_U if model.ln_final.centred else torch.zeros(37)
    left_over = (logits[0, 7] - bias).detach()
    found = last @ logit_direction(model, run, 7, 5)
    torch.testing.assert_close(found, left_over[5], rtol=1e-6, atol=1e-6)  # final_scale is kept in float32
    found = last @ logit_direction(model, run, 7, 5, contrast=-1)
    torch.testing.assert_close(found, left_over[5] - left_over[36], rtol=1e-6, atol=1e-6)


def test_ranking_one_layer(run):
    heads = virtual_heads(run, 1, 8, DIRECTION)
    table = heads.ranked()
    assert list(table) == ["layer", "query", "source", "target", "attribution", "share", "weight", "norm"]
    assert len(table) == H * H
    assert table.share.sum() == pytest.approx(1)
    assert table.attribution.abs().is_monotonic_decreasing
    for row in table.itertuples():
        assert (row.layer, row.query) == (1, 8)
        for name in ("attribution", "weight", "norm"):
            assert getattr(row, name) == getattr(heads, name)[row.source, row.target]
        assert row.share == pytest.approx(abs(row.attribution) / heads.attribution.abs().sum())
    assert heads.ranked(3).equals(table.head(3))


def test_ranking_without_a_direction_goes_by_norm(run):
    table = virtual_heads(run, 1, 8).ranked(5)
    assert list(table) == ["layer", "query", "source", "target", "weight", "norm"]
    assert table.norm.is_monotonic_decreasing
    assert table.norm[0] == virtual_heads(run, 1, 8).norm.max()


def test_nothing_along_a_direction_is_a_share_of_zero(run):
    assert (virtual_heads(run, 1, 8, torch.zeros(D)).ranked().share == 0).all()


def test_ranking_several_layers(run):
    table = ranked_virtual_heads(run, 8, DIRECTION, count=None)
    assert len(table) == 3 * H * H
    assert table.share.sum() == pytest.approx(1)
    assert table.attribution.abs().is_monotonic_decreasing
    total = sum(float(virtual_heads(run, layer, 8, DIRECTION).attribution.sum()) for layer in range(3))
    assert table.attribution.sum() == pytest.approx(total)
    assert ranked_virtual_heads(run, 8, DIRECTION).equals(table.head(20))
    assert set(ranked_virtual_heads(run, 8, DIRECTION, layers=[-1, 0, 2]).layer) == {0, 2}


# -- scores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_score_sources_sum_to_the_composed_scores(variant):
    model, tokens = small_model(variant), some_tokens(T)
    _, cache = cached(model, tokens)
    run = capture(model, tokens)
    for layer in range(3):
        raw, composed = (cache[f"blocks.{layer}.attn.hook_{name}"][0] for name in ("attn_scores_raw", "attn_scores"))
        seen = run.keys_seen(layer, 9)
        assert torch.equal(composed[0, 9].isfinite().nonzero().flatten(), torch.arange(T)[seen])
        rows = torch.stack([score_row(run, layer, 9, target) for target in range(H)], dim=1)  # [source, target, key]
        torch.testing.assert_close(rows.sum(0), composed[:, 9, seen], **EXACT)
        pairs = torch.stack([score_sources(run, layer, 9, key) for key in range(T)], dim=-1)
        torch.testing.assert_close(rows, pairs[..., seen], **EXACT)
        for key in range(T):  # masked pairs too
            truth = raw[:, None, 9, key] * matrix(run.layers[layer].pre, 9, key)
            torch.testing.assert_close(pairs[..., key], truth, **EXACT)
        contrast = score_contrast(run, layer, 9, 8)
        torch.testing.assert_close(contrast, pairs[..., 8] - rows.mean(-1), **EXACT)
        difference = composed[:, 9, 8] - composed[:, 9, seen].mean(-1)
        torch.testing.assert_close(contrast.sum(0), difference, **EXACT)


# -- circuits --------------------------------------------------------------------------------------


def frozen_cache(model, mean, tokens):
    with Intervention(mode="mean", mean=mean).applied(model):
        return cached(model, tokens)[1]


@pytest.mark.parametrize("variant", ["llama", "static and dynamic", "groups", "key side", "pre only"])
def test_effective_ov_is_what_a_model_frozen_to_its_mean_moves(variant):
    model = small_model(variant, use_bias=False)
    mean, tokens = MeanMixing.over(model, [some_tokens(2, 7, seed=1)]), some_tokens(T)
    cache = frozen_cache(model, mean, tokens)
    for layer in range(3):
        x = cache[f"blocks.{layer}.ln1.hook_normalized"][0] * model.blocks[layer].ln1.w
        x = x + model.blocks[layer].ln1.b if model.ln_final.centred else x
        raw = cache[f"blocks.{layer}.attn.hook_pattern_raw"][0]
        moved = sum(raw[g] @ (x @ effective_ov(model, mean, layer, g).AB) for g in range(H))
        torch.testing.assert_close(moved.detach(), cache["attn_out", layer][0], **EXACT)
        assert effective_ov(model, mean, layer, 0).A.shape == (D, H * 6)


@pytest.mark.parametrize("changes", [{}, {"static_mixing": True}, {"groups": 2}, {"sides": ("query",)}])
def test_effective_qk_is_what_a_model_frozen_to_its_mean_compares(changes):
    model = small_model("original", use_bias=False, **changes)  # no query/key norm, no rotary positions
    mean, tokens = MeanMixing.over(model, [some_tokens(2, 7, seed=1)]), some_tokens(T)
    cache = frozen_cache(model, mean, tokens)
    for layer, target in ((0, 3), (2, 1)):
        ln1 = model.blocks[layer].ln1
        x = cache[f"blocks.{layer}.ln1.hook_normalized"][0] * ln1.w + ln1.b
        scores = x @ effective_qk(model, mean, layer, target).AB @ x.T / 6**0.5
        truth = cache[f"blocks.{layer}.attn.hook_attn_scores"][0, target]
        seen = truth.isfinite()
        torch.testing.assert_close(scores.detach()[seen], truth[seen], **EXACT)


def test_the_mean_matrix_is_the_mean_of_all_matrices():
    model, prompt = small_model("static and dynamic"), some_tokens(5, seed=2)
    mean, run = MeanMixing.over(model, [prompt]), capture(model, prompt)
    every = [run.mixing(1, "post").matrix(i, j) for i in range(5) for j in range(5)]
    torch.testing.assert_close(
        mean_matrix(model, mean, 1, "post").float(), torch.stack(every).mean(0), rtol=0, atol=1e-5
    )
    one_site = small_model("pre only")
    mean = MeanMixing.over(one_site, [prompt])
    assert torch.equal(mean_matrix(one_site, mean, 1, "post"), torch.eye(H).double())


# -- before and after the softmax ------------------------------------------------------------------


def measure(logits):
    return logits[0, -1, 5] - logits[0, -1, 9]


def without(*sites):
    """Hooks that take the dynamic mixing of some sites away, where the base is the identity."""
    return [(lambda name: any(f".{site}.hook_" in name for site in sites), lambda x, hook: x * 0)]


def test_pre_and_post_are_four_runs_of_the_model():
    model, tokens = small_model("llama windows"), some_tokens(T)
    found = pre_and_post(model, tokens, measure)
    with torch.no_grad():
        assert found.both == float(measure(model(tokens)))
        assert found.neither == pytest.approx(float(measure(uncomposed_twin().run(model, tokens))), abs=1e-10)
        for name, off in (("pre", "post"), ("post", "pre")):
            truth = measure(model.run_with_hooks(tokens, fwd_hooks=without(off)))
            assert getattr(found, name) == pytest.approx(float(truth), abs=1e-10)


def test_pre_and_post_of_some_layers_in_an_engine():
    model, tokens = small_model("static and dynamic"), some_tokens(T)
    found, engine = (pre_and_post(source, tokens, measure, layers=[-1]) for source in (model, Engine(model)))
    everywhere = pre_and_post(model, tokens, measure)
    assert found.both == everywhere.both
    assert abs(found.neither - everywhere.neither) > 1e-3
    for name in ("neither", "pre", "post", "both"):
        assert getattr(engine, name) == pytest.approx(getattr(found, name), abs=1e-10)


@pytest.mark.parametrize("variant", BOTH_SITES)
def test_pre_and_post_of_a_layer_are_four_runs_that_change_only_this_layer(variant):
    model, tokens = small_model(variant), some_tokens(T)
    run = capture(model, tokens)
    for layer, query in ((0, 8), (2, -1)):
        found = pre_and_post_of_layer(run, layer, query, DIRECTION)
        for name, off in (("neither", ["pre", "post"]), ("pre", ["post"]), ("post", ["pre"]), ("both", [])):
            change = (
                Intervention(mode="identity", sites=off, layers=[layer])
                if off
                else Intervention(mode="scale", amount=1)
            )
            with change.applied(model):
                _, cache = cached(model, tokens)
            truth = (cache["attn_out", layer][0, query] - model.blocks[layer].attn.b_O.detach()) @ DIRECTION
            assert getattr(found, name) == pytest.approx(float(truth), abs=1e-10)


def test_both_orders_sum_to_the_whole_and_meet_in_the_mean():
    found = PreAndPost(neither=1.0, pre=3.0, post=2.0, both=7.0)
    assert found.pre_first == {"pre": 2, "post": 4}
    assert found.post_first == {"pre": 5, "post": 1}
    assert found.mean == {"pre": 3.5, "post": 2.5}
    assert found.interaction == 3
    table = found.table()
    assert list(table.index) == ["pre first", "post first", "mean"]
    assert (table["sum"] == 6).all()
    assert (table["pre"] + table["post"] == 6).all()
    assert table.pre["post first"] - table.pre["pre first"] == found.interaction


# -- what does not exist ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: virtual_heads(run, 3, 0), "Layer 3 is not in this capture. It holds layers"),
        (lambda run: virtual_heads(run, 0, 11), "Query 11 does not exist: there are 11, 0 to 10"),
        (
            lambda run: virtual_heads(run, 0, 5, torch.zeros(3, D)),
            r"direction must be \[d_model=20\], got shape \(3, 20\)",
        ),
        (lambda run: virtual_heads(run, 0, 5).vector(0, 4), "Head 4 does not exist"),
        (lambda run: virtual_heads(run, 0, 5).ranked(0), "count must be at least 1, got 0"),
        (lambda run: ranked_virtual_heads(run, 5, DIRECTION, layers=[]), "layers is empty"),
        (lambda run: ranked_virtual_heads(run, 5, DIRECTION, layers=[4]), "Layer 4 is not in this capture"),
        (lambda run: score_sources(run, 0, 5, 11), "Key 11 does not exist"),
        (lambda run: score_row(run, 0, 5, 4), "Head 4 does not exist"),
        (lambda run: score_contrast(run, 0, 5, 2), "Query 5 of layer 0 does not see key 2, only keys 3 to 5"),
        (lambda run: score_contrast(run, 1, 5, 6), "Query 5 of layer 1 does not see key 6, only keys 0 to 5"),
        (lambda run: logit_direction(small_model(), run, 11, 3), "Query 11 does not exist"),
        (lambda run: logit_direction(small_model(), run, 5, 37), "Token 37 does not exist"),
        (lambda run: pre_and_post_of_layer(run, 0, 5, torch.zeros(7)), r"direction must be \[d_model=20\]"),
        (lambda run: pre_and_post(small_model(), some_tokens(T), measure, layers=[3]), "Layer 3 does not exist"),
        (lambda run: pre_and_post(small_model(), some_tokens(T), lambda x: x[0, -1]), r"one number, got shape \(37,\)"),
    ],
)
def test_what_does_not_exist_is_refused(run, call, message):
    with pytest.raises(ValueError, match=message):
        call(run)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, mean: effective_ov(model, mean, 0, 4), "Head 4 does not exist"),
        (lambda model, mean: effective_qk(model, mean, 3, 0), "Layer 3 does not exist"),
        (lambda model, mean: mean_matrix(model, mean, 0, "mid"), "Unknown site 'mid'"),
        (lambda model, mean: effective_ov(small_model("pre only"), mean, 0, 0), "taken over another model"),
    ],
)
def test_circuits_that_do_not_exist_are_refused(call, message):
    model = small_model()
    with pytest.raises(ValueError, match=message):
        call(model, MeanMixing.over(model, [some_tokens(1, 4)]))


@pytest.mark.parametrize(
    ("variant", "message"),
    [("pre only", "at site 'pre' only"), ("post only", "at site 'post' only"), ("plain", "at neither site")],
)
def test_only_a_model_that_mixes_at_both_sites_has_two_parts(variant, message):
    model, tokens = small_model(variant), some_tokens(T)
    with pytest.raises(ValueError, match=message):
        pre_and_post(model, tokens, measure)
    with pytest.raises(ValueError, match=message):
        pre_and_post_of_layer(capture(model, tokens), 0, 5, DIRECTION)
