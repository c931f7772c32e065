"""Metrics of heads against their definitions in loops, and on hand-made heads with known answers."""

import itertools
import sys
from math import inf, log

import numpy as np
import pytest
import torch

from model import capture
from model.mixing import Mixing
from probes.metrics import (
    DISTANCE_METRICS,
    DIVERSITY_METRICS,
    HEAD_METRICS,
    MIXING_METRICS,
    diversity,
    head_metrics,
    raw_to_composed,
)
from probes.metrics.blocks import BLOCK_CELLS
from tests.metric_runs import VARIANTS, WORDS, H, T, hand_made, run_of, visible_pairs
from tests.models import small_model

HEAD = {metric.name: metric for metric in HEAD_METRICS}
DIVERSITY = {metric.name: metric for metric in DIVERSITY_METRICS}
MIXING = {metric.name: metric for metric in MIXING_METRICS}
ALL = [*HEAD_METRICS, *DISTANCE_METRICS, *DIVERSITY_METRICS, *MIXING_METRICS]


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
