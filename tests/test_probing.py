"""Planted truth: probes recover what features say, and the controls expose what they do not."""

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import KFold, cross_val_score

from probes.estimators import PROBES, LinearProbe
from probes.probing import COLUMNS, REFERENCES, SCORES, probe_cells
from tests.probing_data import against, cell, corpus, linear_classes


def test_a_linear_signal_is_read_by_every_probe_and_no_control_explains_it():
    text = corpus(seed=1)
    X = text.noise(6)
    y = linear_classes(X, 3, text.rng, strength=2.0)
    table = probe_cells(
        [cell(X)], {"y": y}, text.documents, positions=text.positions, token_ids=text.token_ids, probes=list(PROBES)
    )
    for probe in ("linear", "ridge", "mlp", "neighbours"):
        for reference in ("constant", "shuffled_labels", "control_task", "position", "token_identity"):
            row = against(table, reference, probe=probe)
            assert row.value > 0.7, probe
            assert row.reference < 0.5
            assert row.p_holm < 1e-6
            assert row.low < row.value < row.high
            assert row.difference_low > 0.15
    code = against(table, "shuffled_labels", "compression", probe="online_code")
    assert code.value > 1.5
    assert code.reference < 1.1
    assert code.p_holm < 1e-6
    assert against(table, "constant", "compression", probe="online_code").reference == pytest.approx(1, abs=0.06)


def test_an_exclusive_or_is_read_by_nonlinear_probes_alone():
    text = corpus(documents=60, seed=2)
    X = text.noise(3)
    y = np.where((X[:, 0] > 0) ^ (X[:, 1] > 0), "differ", "same")
    table = probe_cells([cell(X)], {"y": y}, text.documents, probes=["linear", "ridge", "mlp", "neighbours"])
    for probe in ("linear", "ridge"):
        assert against(table, "constant", "balanced_accuracy", probe=probe).value < 0.57
    for probe in ("mlp", "neighbours"):
        row = against(table, "constant", probe=probe)
        assert row.value > 0.85
        assert row.p_holm < 1e-6


def test_an_absent_signal_is_found_by_no_probe_in_many_cells():
    text = corpus(seed=3)
    y, numbers = linear_classes(text.noise(4), 3, text.rng), text.noise(1)[:, 0]
    cells = [cell(text.noise(5), f"noise {number}") for number in range(12)]
    table = probe_cells(cells, {"y": y, "numbers": numbers}, text.documents, probes=["linear", "ridge"])
    assert table[table.against == "constant"].p_holm.min() > 0.05
    assert table[table.score == "r2"].value.max() < 0.02
    assert (table[table.score == "accuracy"].value < table[table.score == "accuracy"].largest_class + 0.05).all()


def test_a_label_that_is_only_token_identity_has_no_selectivity_and_is_no_better_than_a_lookup():
    text = corpus(documents=60, types=12, seed=4)
    X = text.rng.normal(size=(12, 14))[text.token_ids] + 0.1 * text.noise(14)
    y = np.array(["noun", "verb", "other"])[text.rng.integers(0, 3, 12)[text.token_ids]]
    table = probe_cells([cell(X)], {"y": y}, text.documents, token_ids=text.token_ids)
    assert against(table, "constant").value > 0.99  # which looks like a finding
    assert abs(against(table, "control_task").difference) < 0.01
    assert against(table, "token_identity").p > 0.05


def test_a_label_that_is_only_position_is_no_better_than_position():
    text = corpus(seed=5)
    X = np.stack([np.sin(text.positions / 9), np.cos(text.positions / 9), text.positions / 20], 1)
    X = X + 0.05 * text.noise(3)
    y = np.where(text.positions < 8, "start", np.where(text.positions < 16, "middle", "end"))
    row = against(probe_cells([cell(X)], {"y": y}, text.documents, positions=text.positions), "position")
    assert row.value > 0.9  # which looks like a finding
    assert row.reference > 0.95
    assert row.p > 0.05


def test_a_label_that_is_only_the_document_is_caught_by_grouped_splits():
    text = corpus(documents=60, seed=6)
    _, document = np.unique(text.documents, return_inverse=True)
    X = text.rng.normal(size=(60, 40))[document] + 0.1 * text.noise(40)
    y = np.array(["news", "fiction"])[text.rng.integers(0, 2, 60)[document]]
    leaky = cross_val_score(LinearProbe(), X, y, cv=KFold(5, shuffle=True, random_state=0)).mean()
    row = against(probe_cells([cell(X)], {"y": y}, text.documents), "constant", "balanced_accuracy")
    assert leaky > 0.85  # what splits that tear documents apart would report
    assert row.low < 0.5 < row.high


def test_features_are_held_against_the_stream_that_they_come_from_and_the_untrained_model():
    text = corpus(documents=60, seed=7)
    residual = text.noise(20)
    residual[:, 0] *= 0.3  # the signal lies outside the leading components
    y = linear_classes(residual[:, :1], 2, text.rng, strength=14.0)
    exposing = np.concatenate([residual[:, :1], residual[:, 5:7]], 1)
    table = probe_cells(
        [cell(exposing, residual="stream", random_init=text.noise(3))], {"y": y}, text.documents,
        residuals={"stream": residual.astype(np.float32)},
    )  # fmt: skip
    assert abs(against(table, "residual").difference) < 0.03  # nothing is added to what is there
    for reference in ("residual_pca", "residual_projection", "random_init"):
        row = against(table, reference)
        assert row.difference_low > 0.1, reference  # but it is exposed
        assert row.p_holm < 1e-6


def test_numbers_are_read_too():
    text = corpus(seed=8)
    X = text.noise(4)
    signal = X @ np.array([1.0, -2.0, 0.5, 0.0])
    table = probe_cells(
        [cell(X)], {"surprise": signal + text.noise(1)[:, 0] * 2}, text.documents, token_ids=text.token_ids,
        positions=text.positions, probes=["ridge", "mlp", "neighbours"],
    )  # fmt: skip
    share = 5.25 / 9.25
    assert against(table, "constant", "r2", probe="ridge").value == pytest.approx(share, abs=0.05)
    for probe in ("ridge", "mlp", "neighbours"):
        for reference in ("constant", "shuffled_labels", "control_task", "position", "token_identity"):
            row = against(table, reference, "r2", probe=probe)
            assert row.value > 0.35
            assert row.reference < 0.05
            assert row.p_holm < 1e-4


def test_the_values_of_the_table_are_those_of_the_tokens():
    """Every number that can be said of the labels alone, and the scores of a probe that is always right."""
    text = corpus(documents=30, seed=9)
    y = np.array(["a", "b", "c"])[text.rng.choice(3, len(text), p=[0.6, 0.3, 0.1])]
    X = (y[:, None] == np.array(["a", "b"])).astype(float)
    labels = {"y": y, "some": np.where(text.positions < 7, None, y)}
    table = probe_cells([cell(X)], labels, text.documents, token_ids=text.token_ids)
    assert list(table.columns) == ["cell", *COLUMNS]
    assert set(table.against) <= set(REFERENCES)
    assert set(table.score) <= set(SCORES)
    row = against(table, "constant", label="y")
    shares = [(y == name).mean() for name in "abc"]
    assert (row.tokens, row.documents, row.classes, row.features) == (len(text), 30, 3, 2)
    assert row.largest_class == pytest.approx(max(shares))
    assert row.smallest_class == pytest.approx(min(shares))
    assert row.value == row.low == row.high == 1
    assert row.reference == pytest.approx(max(shares))
    assert against(table, "constant", "balanced_accuracy", label="y").reference == pytest.approx(1 / 3)
    entropy = -sum(share * np.log2(share) for share in shares)
    assert against(table, "constant", "cross_entropy", label="y").reference == pytest.approx(entropy, abs=0.01)
    assert against(table, "constant", label="some").tokens == (text.positions >= 7).sum()


def test_floating_point_labels_are_numbers_however_they_come_and_all_others_classes():
    text = corpus(documents=15, seed=11)
    X = text.noise(2)
    numbers = [None if place == 3 else float(x) for place, x in zip(text.positions, X[:, 0], strict=True)]
    codes = (X[:, 1] > 0).astype(int)
    labels = {
        "list": numbers, "objects": np.array(numbers, dtype=object), "series": pd.Series(numbers, index=codes),
        "codes": codes, "flags": codes == 1, "category": pd.Categorical(codes), "nullable": pd.array(codes, "Int64"),
    }  # fmt: skip
    table = probe_cells([cell(X)], labels, text.documents, probes=["ridge"], references=["constant"])
    values = {name: table[table.label == name].value.tolist() for name in labels}
    assert {len(values[name]) for name in ("list", "objects", "series")} == {1}  # R²
    assert {len(values[name]) for name in ("codes", "flags", "category", "nullable")} == {2}  # two accuracies
    assert set(table[table.label.isin(["list", "objects", "series"])].tokens) == {(text.positions != 3).sum()}


def test_corrections_are_over_all_cells_of_a_score_and_reference():
    text = corpus(seed=10)
    X = text.noise(5)
    y = linear_classes(X[:, :2], 2, text.rng, strength=0.4)
    cells = [cell(X[:, [number]], f"feature {number}") for number in range(5)]
    table = probe_cells(cells, {"y": y}, text.documents, references=["constant", "shuffled_labels"])
    rows = table[(table.score == "cross_entropy") & (table.against == "constant")].sort_values("p")
    p = rows.p.to_numpy()
    by_hand, largest = [], 0.0
    for rank, value in enumerate(p):
        largest = max(largest, min(1.0, (5 - rank) * value))
        by_hand.append(largest)
    np.testing.assert_allclose(rows.p_holm, by_hand)
    np.testing.assert_allclose(rows.p_bh, [min(1, *(p[k:] * 5 / np.arange(k + 1, 6)), 1) for k in range(5)])
