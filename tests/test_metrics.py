"""Metrics against their definitions in loops, on hand-made heads with known answers, and one contract for all."""

import dataclasses
import itertools
import sys
from math import inf, isclose, log

import numpy as np
import pytest
import torch

from model import Capture, DCFormerConfig, capture
from model.capture import LayerCapture
from model.mixing import Mixing
from model.site_mixing import SiteMixing
from probes.metrics import (
    DISTANCE_METRICS,
    DIVERSITY_METRICS,
    HEAD_METRICS,
    MIXING_METRICS,
    diversity,
    head_metrics,
    mixing_metrics,
    raw_to_composed,
    repeated_random_tokens,
    value_norms,
)
from probes.metrics.blocks import BLOCK_CELLS
from probes.metrics.effective_rank import effective_rank
from probes.metrics.output_similarity import debiased_cka
from tests.models import small_model, some_tokens

T, H = 13, 4
HEAD = {metric.name: metric for metric in HEAD_METRICS}
DIVERSITY = {metric.name: metric for metric in DIVERSITY_METRICS}
MIXING = {metric.name: metric for metric in MIXING_METRICS}
ALL = [*HEAD_METRICS, *DISTANCE_METRICS, *DIVERSITY_METRICS, *MIXING_METRICS]
VARIANTS = ["llama windows", "groups", "static and dynamic", "key side", "pre only", "talking heads"]
WORDS = [5, 9, 5, 5, 7, 9, 2, 5, 9, 1, 7, 3, 3]
"""13 tokens, some of which repeat, also right after each other."""


def run_of(variant="llama windows", words=WORDS):
    return capture(small_model(variant), torch.tensor(words))


def visible_pairs(run, layer):
    window = run.cfg.keys_visible_in(layer) or len(run)
    return [(i, j) for i in range(len(run)) for j in range(max(0, i - window + 1), i + 1)]


# -- head metrics against loops ------------------------------------------------------------------------


def loop_targets(name, words, i):
    """The keys that a query's weight is counted on, or None where the query does not count."""
    keys = {
        "previous_token": [i - 1] if i else [],
        "first_token": [0] if i else [],
        "duplicate_token": [p for p in range(i) if words[p] == words[i]],
        "induction": [p + 1 for p in range(i - 1) if words[p] == words[i]],
    }[name]
    return keys or None


def loop_row(name, row, i, norms):
    """One query's value; row: weights on keys 0 .. T-1."""
    total = sum(abs(a) for a in row)
    shares = [abs(a) / total for a in row]
    return {
        "entropy": lambda: -sum(a * log(a) for a in row if a > 0),
        "absolute_entropy": lambda: -sum(s * log(s) for s in shares if s > 0),
        "mean_distance": lambda: sum(a * (i - j) for j, a in enumerate(row)),
        "absolute_distance": lambda: sum(s * (i - j) for j, s in enumerate(shares)),
        "row_sum": lambda: sum(row),
        "negative_mass": lambda: sum(-a for a in row if a < 0),
        "negative_share": lambda: sum(-a for a in row if a < 0) / total,
        "value_weighted_norm": lambda: sum(abs(a) * norm for a, norm in zip(row, norms)),
        "value_weighted_first_token": lambda: abs(row[0]) * norms[0] / sum(abs(a) * n for a, n in zip(row, norms)),
    }[name]()


FROM_THE_SECOND = {
    "entropy", "absolute_entropy", "mean_distance", "absolute_distance", "value_weighted_first_token",
}  # fmt: skip


def loop_head_metric(name, run, layer, stage, head):
    pattern = run.pattern(layer, stage)[head].double().tolist()
    at, words = run.layers[layer], run.tokens.tolist()
    norms = [float((at.v[j, head].double() @ at.W_O[head].double()).norm()) for j in range(len(run))]
    values = []
    for i, row in enumerate(pattern):
        if name in ("previous_token", "first_token", "duplicate_token", "induction"):
            keys = loop_targets(name, words, i)
            values += [] if keys is None else [sum(row[j] for j in keys)]
        elif i or name not in FROM_THE_SECOND:
            values.append(loop_row(name, row, i, norms))
    return sum(values) / len(values)


@pytest.mark.parametrize("variant", ["llama windows", "groups", "neox", "plain"])
@pytest.mark.parametrize("metric", HEAD_METRICS, ids=lambda metric: metric.name)
def test_a_head_metric_equals_its_definition(metric, variant):
    run = run_of(variant)
    for layer, stage in itertools.product((0, 1), metric.ranges):
        truth = [loop_head_metric(metric.name, run, layer, stage, head) for head in range(H)]
        assert metric(run, layer, stage).tolist() == pytest.approx(truth, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_distances_equal_their_definitions(variant):
    run = run_of(variant)
    divergence, distance = DISTANCE_METRICS
    for layer, head in itertools.product((0, 1), range(H)):
        raw, composed = (run.scores(layer, stage)[head].double() for stage in ("raw", "composed"))
        before, after = (run.pattern(layer, stage)[head].double() for stage in ("raw", "composed"))
        total = 0.0
        for i in range(1, T):
            keys = [j for q, j in visible_pairs(run, layer) if q == i]
            p, q = raw[i, keys].softmax(0), composed[i, keys].softmax(0)
            total += sum(float(a) * log(float(a) / float(b)) for a, b in zip(p, q))
        assert float(divergence(run, layer)[head]) == pytest.approx(total / (T - 1), rel=1e-6, abs=1e-9)
        truth = sum(abs(float(after[i, j] - before[i, j])) for i, j in visible_pairs(run, layer)) / T
        assert float(distance(run, layer)[head]) == pytest.approx(truth, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("metric", HEAD_METRICS, ids=lambda metric: metric.name)
def test_the_baseline_is_the_value_of_uniform_attention(metric):
    run = run_of()
    for layer in (0, 1):
        uniform = torch.zeros(T, T)
        for i, j in visible_pairs(run, layer):
            uniform[i, j] = 1 / len([k for q, k in visible_pairs(run, layer) if q == i])
        looks_alike = hand_made(uniform.log().expand(H, T, T), like=run, layer=layer)
        torch.testing.assert_close(metric.baseline(run, layer), metric(looks_alike, layer, "raw"), rtol=1e-6, atol=1e-6)


def test_blocks_of_queries_do_not_show(monkeypatch):
    run = run_of()
    tables = [head_metrics(run), raw_to_composed(run), diversity(run)]
    assert T * T * H < BLOCK_CELLS
    monkeypatch.setattr(sys.modules["probes.metrics.blocks"], "BLOCK_CELLS", H * T * 3)  # three queries a block
    for whole, in_blocks in zip(tables, [head_metrics(run), raw_to_composed(run), diversity(run)]):
        np.testing.assert_allclose(in_blocks.value, whole.value, rtol=1e-5, atol=1e-6)


def test_several_prompts_count_each_query_once():
    model = small_model()
    runs = [capture(model, torch.tensor(words)) for words in (WORDS, WORDS[:6])]
    counts = {"previous_token": (12, 5), "row_sum": (13, 6), "duplicate_token": (7, 3), "induction": (6, 3)}
    for name, (first, second) in counts.items():
        apart = [HEAD[name](run, 1, "composed") for run in runs]
        together = (first * apart[0] + second * apart[1]) / (first + second)
        torch.testing.assert_close(HEAD[name](runs, 1, "composed"), together)


# -- hand-made heads with known answers ----------------------------------------------------------------


def hand_made(scores_NTS, words=None, mixing=None, like=None, layer=0):
    """A capture whose raw scores are given (-inf becomes -1000), and whose values are random."""
    heads, length = scores_NTS.shape[:2]
    # one key dimension for each key, so that any scores are a product of queries and keys
    q = scores_NTS.clamp(min=-1000.0).transpose(0, 1).double() * length**0.5
    k = torch.eye(length, dtype=torch.float64)[:, None].expand(length, heads, length)
    at = None if like is None else like.layers[layer]
    v = torch.randn(length, heads, 5, generator=torch.Generator().manual_seed(2)).double() if at is None else at.v
    W_O = torch.randn(heads, 5, 8, generator=torch.Generator().manual_seed(3)).double() if at is None else at.W_O
    none = Mixing(n_heads=heads)
    cfg = like.cfg if like else DCFormerConfig.from_architecture(
        "llama", n_layers=1, d_model=8, n_heads=heads, d_head=6, d_mlp=7, d_vocab=40, n_ctx=length
    )  # fmt: skip
    tokens = like.tokens if like else torch.tensor(words or list(range(length)))
    kept = LayerCapture(q=q, k=k, v=v, pre=none, post=mixing or none, W_O=W_O)
    return Capture(cfg, tokens, [str(t) for t in tokens.tolist()], None, torch.ones(length, 1), {layer: kept})


def looking_back(length, steps):
    """Scores of a head that puts all its weight `steps` tokens back, or on itself where there is none."""
    scores = torch.full((length, length), -inf)
    for i in range(length):
        scores[i, i - steps if i >= steps else i] = 0.0
    return scores


def test_a_head_that_looks_one_back_is_a_previous_token_head():
    run = hand_made(torch.stack([looking_back(9, 1), looking_back(9, 0), looking_back(9, 8)]))
    assert HEAD["previous_token"](run, 0, "raw").tolist() == pytest.approx([1, 0, 0])
    assert HEAD["first_token"](run, 0, "raw").tolist() == pytest.approx([1 / 8, 0, 1 / 8])
    assert HEAD["entropy"](run, 0, "raw").tolist() == pytest.approx([0, 0, 0])
    assert HEAD["mean_distance"](run, 0, "raw").tolist() == pytest.approx([1, 0, 1])


def test_heads_on_a_repeat_are_told_apart():
    block = 6
    scores = torch.stack([looking_back(2 * block, block - 1), looking_back(2 * block, block)])
    run = hand_made(scores, [3, 1, 4, 5, 9, 2] * 2)
    assert HEAD["induction"](run, 0, "raw").tolist() == pytest.approx([1, 0])
    assert HEAD["duplicate_token"](run, 0, "raw").tolist() == pytest.approx([0, 1])


def test_a_constant_mixing_shows_in_signed_metrics():
    static = torch.tensor([[-1.5, 0.0], [0.0, 0.0]], dtype=torch.float64)  # I + W = diag(-0.5, 1)
    scores = torch.stack([looking_back(7, 2), looking_back(7, 1)])
    run = hand_made(scores, mixing=Mixing(n_heads=2, static=static))
    for name, expected in (("row_sum", [-0.5, 1]), ("negative_mass", [0.5, 0]), ("negative_share", [1, 0])):
        assert HEAD[name](run, 0, "composed").tolist() == pytest.approx(expected)
    raw, composed = (HEAD["value_weighted_norm"](run, 0, stage) for stage in ("raw", "composed"))
    torch.testing.assert_close(composed, raw * torch.tensor([0.5, 1.0]))
    assert DISTANCE_METRICS[1](run, 0).tolist() == pytest.approx([1.5, 0])


def test_a_local_layer_gives_no_weight_to_what_it_cannot_see():
    run = run_of("llama windows", [3, 1, 4, 5, 9, 2] * 2)
    assert run.cfg.keys_visible_in(0) == 3
    for name in ("induction", "duplicate_token"):
        assert HEAD[name](run, 0, "composed").tolist() == [0] * H == HEAD[name].baseline(run, 0).tolist()
        assert HEAD[name](run, 1, "composed").abs().min() > 0


def test_identical_heads_have_no_diversity():
    scores = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0)).expand(3, 8, 8)
    run = hand_made(scores)
    run.layers[0].v[:] = run.layers[0].v[:, :1].clone()
    for metric in DIVERSITY_METRICS:
        assert metric(run, 0, "raw") == pytest.approx(metric.baseline, abs=1e-6)


def test_heads_that_share_no_key_are_as_different_as_can_be():
    run = hand_made(torch.stack([looking_back(9, 0), looking_back(9, 1)]))
    # position 0 sees itself alone in both: one shared cell of nine
    assert DIVERSITY["pattern_cosine"](run, 0, "raw") == pytest.approx(1 / 9)
    assert DIVERSITY["pattern_divergence"](run, 0, "raw") == pytest.approx(log(2))


def test_orthogonal_score_maps_have_full_rank():
    scores = torch.zeros(3, 5, 5)
    for head in range(3):
        scores[head, 4, head] = 7.0
    assert DIVERSITY["score_rank"](hand_made(scores), 0, "raw") == pytest.approx(3)


# -- diversity and mixing against loops ------------------------------------------------------------------


def two_runs(variant):
    model = small_model(variant)
    return [capture(model, some_tokens(n, seed=n)) for n in (9, 5)]


def head_vectors(runs, layer, stage, kind):
    """Every head's map as one vector over the visible cells of all runs."""
    maps = [getattr(run, kind)(layer, stage).double() for run in runs]
    cells = [values[:, i, j] for run, values in zip(runs, maps) for i, j in visible_pairs(run, layer)]
    return torch.stack(cells, dim=1)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stage", ["raw", "composed"])
def test_cosine_and_rank_are_those_of_stacked_maps(variant, stage):
    runs = two_runs(variant)
    for layer in (0, 1):
        patterns, scores = (head_vectors(runs, layer, stage, kind) for kind in ("pattern", "scores"))
        pairs = list(itertools.combinations(range(H), 2))
        cosines = [float(torch.cosine_similarity(patterns[g], patterns[h], dim=0)) for g, h in pairs]
        assert DIVERSITY["pattern_cosine"](runs, layer, stage) == pytest.approx(sum(cosines) / len(pairs))
        assert DIVERSITY["score_rank"](runs, layer, stage) == pytest.approx(loop_rank(scores), rel=1e-6)


def loop_rank(vectors):
    values = np.linalg.svd(vectors.numpy(), compute_uv=False)
    shares = values / values.sum()
    return float(np.exp(-sum(s * log(s) for s in shares if s > 1e-12)))


def test_divergence_equals_its_definition():
    runs = two_runs("llama windows")
    values = []
    for run in runs:
        pattern = run.pattern(0, "raw").double()
        for i, (g, h) in itertools.product(range(1, len(run)), itertools.combinations(range(H), 2)):
            mean = (pattern[g, i] + pattern[h, i]) / 2
            kl = [sum(float(a * (a / m).log()) for a, m in zip(pattern[x, i], mean) if a > 0) for x in (g, h)]
            values.append(sum(kl) / 2)
    assert DIVERSITY["pattern_divergence"](runs, 0, "raw") == pytest.approx(sum(values) / len(values))


def loop_hsic(K, L):
    """Song et al. 2012, equation 5."""
    n = len(K)
    K, L = (M - torch.diag(M.diagonal()) for M in (K, L))
    ones = torch.ones(n, dtype=torch.float64)
    middle = (ones @ K @ ones) * (ones @ L @ ones) / ((n - 1) * (n - 2))
    return float(torch.trace(K @ L) + middle - 2 / (n - 2) * (ones @ K @ L @ ones)) / (n * (n - 3))


@pytest.mark.parametrize("stage", ["raw", "composed"])
def test_output_similarity_is_the_ratio_of_unbiased_estimates(stage):
    runs = two_runs("groups")
    for layer in (0, 1):
        outputs = torch.cat(
            [torch.einsum("nts,snk->tnk", run.pattern(layer, stage).double(), run.layers[layer].v) for run in runs]
        )
        grams = [outputs[:, head] @ outputs[:, head].T for head in range(H)]
        values = [
            loop_hsic(grams[g], grams[h]) / (loop_hsic(grams[g], grams[g]) * loop_hsic(grams[h], grams[h])) ** 0.5
            for g, h in itertools.combinations(range(H), 2)
        ]
        assert DIVERSITY["output_similarity"](runs, layer, stage) == pytest.approx(sum(values) / len(values))


def test_independent_outputs_are_not_similar_and_turned_ones_are():
    generator = torch.Generator().manual_seed(6)
    # fewer tokens than dimensions, where the biased estimate is near 1
    means = torch.stack([debiased_cka(torch.randn(20, 2, 50, generator=generator).double())[0, 1] for _ in range(200)])
    assert abs(float(means.mean())) < 0.02
    one = torch.randn(20, 6, generator=generator).double()
    turned = one @ torch.linalg.qr(torch.randn(6, 6, generator=generator).double())[0] * 3 + 2
    assert float(debiased_cka(torch.stack([one, turned], 1))[0, 1]) == pytest.approx(1)


def loop_moments(runs, layer, site):
    """(matrices of visible pairs, constant, centred query parts, centred key parts), all from single matrices."""
    mixes = [
        (run, SiteMixing(run.mixing(layer, site).factors.map(torch.Tensor.double), len(run), None)) for run in runs
    ]
    visible = [mix.matrix(i, j).double() for run, mix in mixes for i, j in visible_pairs(run, layer)]
    query = torch.stack([mix.query_part(i).double() for run, mix in mixes for i in range(len(run))])
    key = torch.stack([mix.key_part(i).double() for run, mix in mixes for i in range(len(run))])
    return torch.stack(visible), mixes[0][1].base().double() + query.mean(0) + key.mean(0), query, key


def loop_mixing_metrics(runs, layer, site):
    visible, constant, query, key = loop_moments(runs, layer, site)
    pairs = torch.stack([constant + q - query.mean(0) + k - key.mean(0) for q in query for k in key])
    whole, added = (float(x.square().sum((1, 2)).mean()) for x in (pairs, pairs - torch.eye(H)))
    parts = {name: float((x - x.mean(0)).square().sum((1, 2)).mean()) for name, x in (("q", query), ("k", key))}
    squares, diagonal = visible.square().sum(), visible.diagonal(dim1=1, dim2=2).square().sum()
    mean = float(constant.square().sum())
    return {
        "off_diagonal": float(1 - diagonal / squares),
        "constant_share": mean / whole,
        "query_share": parts["q"] / whole,
        "key_share": parts["k"] / whole,
        "added_constant_share": float((constant - torch.eye(H)).square().sum()) / added,
        "dynamic_ratio": float((pairs - pairs.mean(0)).square().sum((1, 2)).mean()) / mean,
        "mixing_rank": loop_rank(pairs.flatten(1)),
        "varying_rank": loop_rank((pairs - pairs.mean(0)).flatten(1)),
    }


@pytest.mark.parametrize("variant", ["llama windows", "groups", "static and dynamic", "key side", "post only"])
def test_mixing_metrics_equal_their_definitions_over_pairs(variant):
    runs = two_runs(variant)
    for site in runs[0].cfg.mixed_sites:
        truth = loop_mixing_metrics(runs, 0, site)
        assert set(truth) == set(MIXING)
        for name, metric in MIXING.items():
            assert metric(runs, 0, site) == pytest.approx(truth[name], rel=1e-4, abs=1e-6), name


def test_shares_of_the_centred_split_sum_to_one():
    runs = two_runs("static and dynamic")
    for site in ("pre", "post"):
        assert isclose(sum(MIXING[f"{part}_share"](runs, 2, site) for part in ("constant", "query", "key")), 1)


def test_static_mixing_is_all_constant():
    table = mixing_metrics(two_runs("talking heads"), layers=[1], sites=["post"]).set_index("metric").value
    assert table[["constant_share", "added_constant_share", "mixing_rank"]].tolist() == pytest.approx([1, 1, 1])
    assert table[["query_share", "key_share", "dynamic_ratio", "varying_rank"]].tolist() == pytest.approx([0] * 4)
    assert 0 < table.off_diagonal < 1


def test_a_constant_may_move_between_branches_without_changing_a_share():
    run = run_of("llama")
    at = run.layers[1]
    moved = at.post.with_factors({"query_gate": at.post.query_gate + 3, "key_gate": at.post.key_gate - 3})
    before = mixing_metrics(run, layers=[1], sites=["post"])
    run.layers[1] = dataclasses.replace(at, post=moved)
    np.testing.assert_allclose(mixing_metrics(run, layers=[1], sites=["post"]).value, before.value, rtol=1e-9)


# -- one contract for every metric -----------------------------------------------------------------------


def relabelled(run, order):
    """The same run with its heads numbered anew: head n is the old head order[n]."""
    layers = {}
    for layer, at in run.layers.items():
        q, k, v = (x[:, order] for x in (at.q, at.k, at.v))
        sites = [
            m.with_factors(
                {name: f[..., order] for name, f in m.factors().items()} | {"static": m.static[order][:, order]}
            )
            for m in (at.pre, at.post)
        ]
        layers[layer] = LayerCapture(q=q, k=k, v=v, pre=sites[0], post=sites[1], W_O=at.W_O[order])
    return Capture(run.cfg, run.tokens, run.str_tokens, run.logits, run.final_scale, layers)


def values_of(metric, run, layer):
    """Everything a metric has to say about a layer, by stage or site."""
    if metric in DISTANCE_METRICS:
        return {metric.site: metric(run, layer)}
    return {where: torch.as_tensor(metric(run, layer, where)) for where in metric.ranges}


def test_names_are_unique():
    assert len({metric.name for metric in ALL}) == len(ALL)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_metric_says_what_it_is(metric):
    assert metric.title
    assert metric.unit
    assert metric.definition.endswith(".")
    assert set(metric.ranges) | set(metric.refusals) in ({"raw", "composed"}, {"pre", "post"})
    assert all(low <= high for low, high in metric.ranges.values())


@pytest.mark.parametrize("variant", ["llama windows", "static and dynamic", "groups"])
@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_values_lie_in_the_stated_range(metric, variant):
    run = run_of(variant)
    for layer in range(3):
        for where, value in values_of(metric, run, layer).items():
            low, high = metric.ranges[where]
            assert torch.isfinite(value).all()
            assert value.dtype == torch.float64 or value.ndim == 0
            assert low - 1e-6 <= float(value.min()) <= float(value.max()) <= high + 1e-6


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_relabelling_heads_relabels_the_metric(metric):
    run, order = run_of("static and dynamic"), [2, 0, 3, 1]
    new = values_of(metric, relabelled(run, order), 1)
    for where, value in values_of(metric, run, 1).items():
        expected = value[order] if value.ndim else value
        torch.testing.assert_close(new[where], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", [*HEAD_METRICS, *DIVERSITY_METRICS], ids=lambda metric: metric.name)
def test_raw_is_composed_in_a_plain_model(metric):
    values = values_of(metric, run_of("plain"), 1)
    if len(values) == 2 and metric.name != "score_rank":
        assert torch.equal(values["raw"], values["composed"])
    elif len(values) == 2:
        torch.testing.assert_close(values["raw"], values["composed"])


@pytest.mark.parametrize("metric", DISTANCE_METRICS, ids=lambda metric: metric.name)
def test_a_plain_models_maps_are_at_no_distance(metric):
    assert metric(run_of("plain"), 1).tolist() == [metric.baseline] * H


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_refusal_says_what_to_use(metric):
    known = {other.name for other in ALL}
    for where, reason in metric.refusals.items():
        assert any(name in reason for name in known)
        with pytest.raises(ValueError, match=f"{metric.name} does not take '{where}': .* Take "):
            metric.check(where)
    with pytest.raises(ValueError, match=r"was asked for 'mixed'\. Choose from"):
        metric.check("mixed")


@pytest.mark.parametrize("name", ["entropy", "mean_distance"])
def test_probability_metrics_refuse_composed_patterns(name):
    with pytest.raises(ValueError, match="signed and its rows do not sum to 1"):
        HEAD[name](run_of(), 0, "composed")


# -- tables ----------------------------------------------------------------------------------------------


def test_tables_hold_every_metric_once():
    run = run_of()
    table = head_metrics(run)
    assert list(table.columns) == ["layer", "head", "stage", "metric", "value"]
    assert len(table) == 3 * H * sum(len(metric.ranges) for metric in HEAD_METRICS)
    assert not table.duplicated(["layer", "head", "stage", "metric"]).any()
    row = table.query("layer == 2 and head == 3 and stage == 'composed' and metric == 'induction'")
    assert row.value.item() == pytest.approx(float(HEAD["induction"](run, 2, "composed")[3]))
    assert len(raw_to_composed(run)) == 3 * H * 2
    assert len(diversity(run)) == 3 * sum(len(metric.ranges) for metric in DIVERSITY_METRICS)
    assert len(mixing_metrics(run)) == 3 * 2 * len(MIXING_METRICS)
    row = mixing_metrics(run, ["key_share"], [-1], ["pre"]).iloc[0]
    assert (row.layer, row.site, row.metric) == (2, "pre", "key_share")
    assert row.value == MIXING["key_share"](run, 2, "pre")


def test_a_table_leaves_out_what_a_prompt_cannot_answer_unless_it_is_asked_for():
    run = run_of(words=list(range(T)))
    assert set(HEAD) - set(head_metrics(run).metric) == {"induction", "duplicate_token"}
    with pytest.raises(ValueError, match="duplicate_token needs a token that stands earlier too, and no given prompt"):
        head_metrics(run, ["duplicate_token"])
    assert set(head_metrics([run, run_of()], layers=[1]).metric) == set(HEAD)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: HEAD["induction"](run_of(words=[4, 4, 2]), 0, "raw"), "at least 2 places earlier too"),
        (lambda run: HEAD["previous_token"](run_of(words=[4]), 0, "raw"), "needs a second token"),
        (lambda run: DIVERSITY["pattern_divergence"](run_of(words=[4]), 0, "raw"), "needs a second token"),
        (lambda run: DIVERSITY["output_similarity"](run_of(words=[4, 1, 2]), 0, "raw"), "at least 4 tokens"),
        (lambda run: head_metrics(run, ["attention"]), "Unknown metric 'attention'. Choose from previous_token"),
        (lambda run: head_metrics([]), "No captures were given"),
        (lambda run: head_metrics([run, run_of("plain")]), "models of different configurations"),
        (lambda run: mixing_metrics(run_of("plain")), "mixes no heads"),
        (lambda run: MIXING["off_diagonal"](run_of("pre only"), 0, "post"), "does not mix at site 'post'"),
        (lambda run: head_metrics(run, layers=[7]), "Layer 7 is not in this capture"),
        (lambda run: diversity(hand_made(torch.zeros(1, 5, 5))), "this model has one"),
    ],
)
def test_bad_questions_are_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call(run_of())


def test_value_norms_are_those_of_what_is_written():
    run = run_of()
    at = run.layers[2]
    truth = torch.einsum("snk,nkd->snd", at.v, at.W_O).norm(dim=-1)
    torch.testing.assert_close(value_norms(run, -1), truth)


# -- sequences -------------------------------------------------------------------------------------------


def test_repeated_tokens_repeat_and_differ_within_a_block():
    model = small_model()
    tokens = repeated_random_tokens(model, 7, repeats=3, batch=2)
    assert tokens.shape == (2, 21)
    assert torch.equal(tokens[:, :7], tokens[:, 7:14])
    assert torch.equal(tokens[:, :7], tokens[:, 14:])
    assert all(len(set(row[:7].tolist())) == 7 for row in tokens)
    assert not torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens, repeated_random_tokens(model, 7, 3, batch=2))
    assert not torch.equal(tokens, repeated_random_tokens(model, 7, 3, seed=1, batch=2))
    runs = capture(model, tokens)
    assert HEAD["induction"](runs, 1, "raw").shape == (H,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block": 0}, "block=0, repeats=2"),
        ({"block": 4, "repeats": 1}, "repeats=1"),
        ({"block": 13}, "26 tokens, the model's context has 24"),
    ],
)
def test_repeats_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        repeated_random_tokens(small_model(), **arguments)
    with pytest.raises(ValueError, match="A block of 40 different tokens was asked for, the vocabulary has 37"):
        repeated_random_tokens(small_model(n_ctx=100), 40)


def test_special_tokens_are_not_drawn():
    class Tokenizer:
        bos_token_id, all_special_ids = 3, [0, 3, 4]

        def __len__(self):
            return 9

    model = small_model(default_prepend_bos=True)
    model.tokenizer = Tokenizer()
    tokens = repeated_random_tokens(model, 6)[0].tolist()
    assert tokens[0] == 3
    assert sorted(tokens[1:7]) == [1, 2, 5, 6, 7, 8]


def test_effective_rank_of_known_singular_values():
    assert effective_rank(torch.diag(torch.tensor([4.0, 4.0, 4.0, 0.0]).double())) == pytest.approx(3)
    assert effective_rank(torch.diag(torch.tensor([9.0, 0.0]).double())) == pytest.approx(1)
    assert effective_rank(torch.zeros(3, 3, dtype=torch.float64)) == 0
