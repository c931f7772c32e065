"""Diversity of heads and metrics of mixing matrices against their definitions in loops."""

import dataclasses
import itertools
from math import isclose, log

import numpy as np
import pytest
import torch

from model import capture
from model.site_mixing import SiteMixing
from probes.metrics import (
    DISTANCE_METRICS,
    DIVERSITY_METRICS,
    HEAD_METRICS,
    MIXING_METRICS,
    mixing_metrics,
)
from probes.metrics.output_similarity import debiased_cka
from tests.metric_runs import VARIANTS, H, run_of, visible_pairs
from tests.models import small_model, some_tokens

HEAD = {metric.name: metric for metric in HEAD_METRICS}
DIVERSITY = {metric.name: metric for metric in DIVERSITY_METRICS}
MIXING = {metric.name: metric for metric in MIXING_METRICS}
ALL = [*HEAD_METRICS, *DISTANCE_METRICS, *DIVERSITY_METRICS, *MIXING_METRICS]


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
