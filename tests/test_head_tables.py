"""Attributions and tables of heads as the pages show them: the library's numbers, kept by what was asked."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from model import capture, load_model
from probes.metrics import (
    diversity,
    head_metrics,
    mixing_metrics,
    raw_to_composed,
    repeated_random_tokens,
)
from probes.virtual_heads import logit_direction, ranked_virtual_heads, virtual_heads
from tests.models import VARIANTS, small_model, some_tokens
from workbench.attributions import attribute_logit, head_keys, likely_tokens
from workbench.head_tables import BESIDE, TABLES, RandomTokens, of_distances, of_diversity, of_heads, top_heads
from workbench.session import Workbench

PROMPT = "< Mary has an apple. John has a violin. >. Who has violin?"
NO_REPEATS = " Mary has an apple"
PATIENCE = 60_000  # ms; a busy machine is slow, and no test here measures speed
T, H = 11, 4


@pytest.fixture(scope="module")
def model():
    return load_model("demo/dcformer")


@pytest.fixture(scope="module")
def run(model):
    return capture(model, PROMPT)


@pytest.fixture(scope="module")
def small():
    return small_model("llama windows")


@pytest.fixture(scope="module")
def small_run(small):
    return capture(small, some_tokens(T))


# -- attributions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_attributions_sum_to_what_the_attention_output_adds_to_the_logit(variant):
    model, tokens = small_model(variant), some_tokens(T)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    run = capture(model, tokens)
    found = attribute_logit(model, run, 8, 5, 12)
    for layer in range(3):
        output = cache["attn_out", layer][0, 8] - model.blocks[layer].attn.b_O.detach()
        truth = float(output @ logit_direction(model, run, 8, 5, 12))
        assert found.sum_of_pieces(layer) == pytest.approx(truth, abs=1e-9)
        assert found.direct[layer] == pytest.approx(truth, abs=1e-9)
    assert found.largest_error < 1e-9


def test_matrices_and_table_are_those_of_the_library(small, small_run):
    found, direction = attribute_logit(small, small_run, 7, 3), logit_direction(small, small_run, 7, 3)
    for layer in range(3):
        truth = virtual_heads(small_run, layer, 7, direction).attribution
        np.testing.assert_allclose(found.matrices[layer], truth.numpy(), atol=1e-12)
    pd.testing.assert_frame_equal(found.table, ranked_virtual_heads(small_run, 7, direction, count=None))
    layer, source, target = found.largest
    assert abs(found.matrices[layer][source, target]) == max(np.abs(m).max() for m in found.matrices.values())


@pytest.mark.parametrize("layer", [0, 1])  # one of them is local: it sees 3 keys
def test_a_virtual_head_key_by_key_sums_to_its_attribution(small, small_run, layer):
    found = attribute_logit(small, small_run, 9, 3)
    row = head_keys(small_run, layer, 9, 2, 1, found.direction)
    assert row.keys == small_run.keys_seen(layer, 9)
    assert row.attribution.sum() == pytest.approx(found.matrices[layer][2, 1], abs=1e-6)
    for at, key in enumerate(range(row.keys.start, row.keys.stop)):
        assert row.pattern[at] == pytest.approx(float(small_run.pattern(layer, "raw")[2, 9, key]), abs=1e-6)
        truth = float(small_run.mixing(layer, "post").matrix(9, key)[2, 1])
        assert row.mixing[at] == pytest.approx(truth, abs=1e-6)
    whole = row.over(T)
    assert np.isnan(whole[: row.keys.start]).all()
    np.testing.assert_array_equal(whole[row.keys], row.weight)
    assert np.abs(row.attribution)[row.strongest - row.keys.start] == np.abs(row.attribution).max()


def test_likely_tokens_are_the_largest_probabilities(run):
    found = likely_tokens(run, 4, count=7)
    probabilities = run.logits[4].softmax(-1)
    assert list(found.values()) == pytest.approx(probabilities.sort(descending=True).values[:7].tolist())
    assert all(probabilities[token] == value for token, value in found.items())
    bare = capture(load_model("demo/dcformer"), PROMPT, logits=False)
    with pytest.raises(ValueError, match="without logits"):
        likely_tokens(bare, 4)


# -- tables of heads ---------------------------------------------------------------------------------


def tidy(wide: pd.DataFrame, index: list[str]) -> dict[tuple, float]:
    long = wide.melt(index, var_name="metric").dropna(subset="value")
    return {tuple(row[:-1]): row[-1] for row in long.itertuples(index=False)}


@pytest.mark.parametrize(
    ("kind", "measure", "index"),
    [
        ("heads", head_metrics, ["layer", "head", "stage"]),
        ("raw to composed", raw_to_composed, ["layer", "head"]),
        ("diversity", diversity, ["layer", "stage"]),
        ("mixing", mixing_metrics, ["layer", "site"]),
    ],
)
def test_tables_hold_the_librarys_numbers(run, kind, measure, index):
    found = TABLES[kind](run)
    truth = measure(run)
    assert tidy(found.table, index) == {
        tuple(row): value for *row, value in truth[[*index, "metric", "value"]].itertuples(index=False)
    }
    assert list(found.table.columns) == [*index, *(metric.name for metric in found.metrics)]
    assert found.table[index].drop_duplicates().shape == found.table[index].shape


def test_row_sum_and_negative_share_stand_first_and_raw_before_composed(run):
    table = of_heads(run).table
    assert tuple(table.columns[3:5]) == BESIDE
    assert table.stage.tolist()[:4] == ["raw", "composed"] * 2


def test_what_a_text_does_not_allow_is_named_with_its_reason(model):
    without_repeats = of_heads(capture(model, NO_REPEATS))
    assert "needs a token that stands earlier too" in without_repeats.missing["Duplicate-token weight"]
    assert "duplicate_token" not in without_repeats.table
    one = capture(model, " Mary")
    assert {"row_sum", "negative_mass"} <= set(of_heads(one).table)
    assert list(of_distances(one).table)[2:] == ["pattern_distance"]
    assert "Similarity of head outputs" in " ".join(of_diversity(one).missing)
    assert [metric.name for metric in of_diversity(one).metrics] == ["pattern_cosine", "score_rank"]


def test_a_layer_without_any_diversity_metric_is_an_empty_table():
    alone = capture(small_model("plain", n_heads=1), some_tokens(T))
    found = of_diversity(alone)
    assert found.table.empty
    assert len(found.missing) == 4


def test_top_heads_reach_the_threshold_and_come_in_order(run):
    table = of_heads(run).table
    raw = head_metrics(run, ["first_token"]).query("stage == 'raw'").sort_values("value", ascending=False)
    threshold = float(raw.value.iloc[4])
    assert top_heads(table, "first_token", "raw", threshold) == list(zip(raw.layer[:5], raw["head"][:5]))
    below = top_heads(table, "first_token", "composed", 0.0, at_least=False)
    values = table[table.stage == "composed"].set_index(["layer", "head"]).first_token
    assert [values[head] for head in below] == sorted(values[values <= 0])


# -- the session keeps them --------------------------------------------------------------------------


def test_answers_are_kept_by_what_was_asked_and_their_number_is_bounded(monkeypatch, model):
    from workbench import session

    monkeypatch.setattr(session, "ATTRIBUTIONS_KEPT", 2)
    bench = Workbench()
    first = bench.attributions("demo/dcformer", PROMPT, 5, 7)
    assert bench.attributions("demo/dcformer", PROMPT, 5, 7) is first
    assert bench.attributions("demo/dcformer", PROMPT, 5, 7, 8) is not first
    bench.attributions("demo/dcformer", PROMPT, 4, 7)
    assert len(bench._attributions) == 2
    table = bench.head_table("demo/dcformer", RandomTokens(9, 3, 2), "heads")
    assert bench.head_table("demo/dcformer", RandomTokens(9, 3, 2), "heads") is table
    truth = head_metrics(capture(model, repeated_random_tokens(model, 9, 3, 2)))
    assert tidy(table.table, ["layer", "head", "stage"]) == {tuple(row[:4]): row[4] for row in truth.itertuples(False)}
