"""What the Compare page shows is what probes.comparison measures: readings, maps, figures, and the script of a view."""

import json
import subprocess
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from model import capture, load_model
from probes import Intervention, MeanMixing, compare, uncomposed_twin
from probes.comparison import compare_runs
from probes.interventions import from_json, to_json
from tests.compared_models import model_folder
from tests.models import small_model, some_tokens
from workbench import comparison_views, comparisons
from workbench.comparisons import COMPOSITIONS, Place, Side
from workbench.figures import changed_tokens_figure, metric_pairs_figure, next_token_pairs_figure
from workbench.scripts import compare_script
from workbench.session import Workbench

ROOT = Path(__file__).parent.parent
PROMPT = "< Mary has an apple. John has a violin. >. Who has violin?"
OTHER = "< Rose has a wolf. John has a violin. Who has a violin?"
CORPUS = ("Mary has an apple.", "John likes Tokyo.")
CUT = to_json(Intervention(layers=[1], sites=["post"]))
A = Side("demo/dcformer", PROMPT)
SECOND = {
    "twin": Side("demo/dcformer", PROMPT, "uncomposed twin"),
    "frozen": Side("demo/dcformer", PROMPT, "frozen", corpus=CORPUS),
    "plain": Side("demo/transformer", PROMPT),
    "cut, other prompt": Side("demo/dcformer", OTHER, "intervention", CUT),
}


@pytest.fixture(scope="module")
def model():
    return load_model("demo/dcformer")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("compared"))


@pytest.fixture(scope="module")
def bench(others):
    return Workbench([Path(others["turned"]).parent])


def truth(model, kind: str):
    if kind == "plain":
        return compare(model, load_model("demo/transformer"), PROMPT)
    if kind == "cut, other prompt":
        with from_json(CUT).applied(model):
            changed = capture(model, OTHER)
        return compare_runs(capture(model, PROMPT), changed, same_heads=True)
    frozen = Intervention(mode="mean", mean=MeanMixing.over(model, CORPUS))
    return compare(model, uncomposed_twin() if kind == "twin" else frozen, PROMPT)


def same_numbers(given: pd.DataFrame, wanted: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(given[list(wanted.columns)], wanted, atol=1e-5, rtol=1e-5)


# -- readings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SECOND)
def test_a_reading_is_the_librarys(bench, model, kind):
    found, wanted = bench.comparison(A, SECOND[kind]), truth(model, kind)
    assert found.pairs == wanted.pairs
    assert found.pairing == wanted.pairing
    same_numbers(found.tokens, wanted.tokens.drop(columns=["next_a", "next_b"]))
    assert found.tokens.next_id_b.tolist() == wanted.tokens.next_b.tolist()
    assert found.tokens.next_a.tolist() == [model.to_string([token]) for token in wanted.tokens.next_a]
    same_numbers(found.heads, wanted.heads)
    for name in ("loss_a", "loss_b", "kl", "same_next_token"):
        assert found.summary[name] == pytest.approx(wanted.summary[name], abs=1e-5)
    same_numbers(bench.compared_metrics(A, SECOND[kind]), wanted.metrics())


@pytest.mark.parametrize("kind", SECOND)
def test_a_place_is_the_librarys(bench, model, kind):
    wanted = truth(model, kind)
    here = bench.compared_place(A, SECOND[kind], False, 5)
    same_numbers(here.next, wanted.next_tokens(5, comparisons.NEXT_TOKENS))
    assert here.next.token_a.tolist() == [model.to_string([token]) for token in here.next.id_a]
    same_numbers(here.heads, wanted.heads_at(5))


def test_only_the_twin_is_warned_of(bench):
    notes = {kind: bench.comparison(A, side).summary["note"] for kind, side in SECOND.items()}
    assert "off the distribution" in notes.pop("twin")
    assert set(notes.values()) == {""}
    assert "off the distribution" in bench.comparison(SECOND["twin"], A).summary["note"]


def test_a_comparison_is_made_once_and_leaves_the_models_as_they_were(bench, model):
    first = bench.comparison(A, SECOND["twin"])
    assert bench.comparison(Side("demo/dcformer", PROMPT), SECOND["twin"]) is first
    torch.testing.assert_close(bench.model("demo/dcformer")(PROMPT), model(PROMPT))


def test_every_composition_is_a_change(model):
    changes = {kind: Side("", "", kind, CUT).change(lambda: MeanMixing.over(model, CORPUS)) for kind in COMPOSITIONS}
    assert changes["as trained"] is None
    assert to_json(changes["uncomposed twin"]) == to_json(uncomposed_twin())
    assert changes["frozen"].mode == "mean"
    assert to_json(changes["intervention"]) == CUT


# -- what cannot be compared, or not wholly ----------------------------------------------------------


def test_another_tokenizer_has_no_divergence_and_lists_of_its_own(bench, others):
    found = bench.comparison(A, Side(others["turned"], PROMPT))
    assert not found.same_ids
    assert len(found.pairs) == len(found.str_tokens[0])  # the texts of the tokens are the same
    assert found.tokens.kl.isna().all()
    assert np.isnan(found.summary["same_next_token"])
    rows = comparisons.most_changed_tokens(found)
    changes = rows.loss_change.abs().dropna()
    assert changes.is_monotonic_decreasing
    here = bench.compared_place(A, Side(others["turned"], PROMPT), False, 2)
    assert (here.next.id_a.isna() != here.next.id_b.isna()).all()
    assert ((here.next.token_a == "") == here.next.id_a.isna()).all()


def test_other_layers_are_unpaired_and_other_heads_paired_as_far_as_they_go(bench, others):
    shallow = bench.comparison(A, Side(others["shallow"], PROMPT))
    assert shallow.pairing == "unpaired"
    assert shallow.partner(1, 2) is None
    assert shallow.opposite(3, 6) == (1, 3)  # its last layer, its last head
    here = bench.compared_place(A, Side(others["shallow"], PROMPT), False, 2)
    view = comparison_views.pair_overview(shallow, here, 2, (0, 0))
    assert all(np.isnan(panel.values).all() for panel in view.panels)
    wide = bench.comparison(A, Side(others["wide"], PROMPT))
    assert wide.pairing == "matched"
    assert set(wide.unpaired.side) == {"b"}
    assert len(wide.unpaired) == 4 * 2


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (Side("demo/nothing", PROMPT), "demo/nothing"),
        (Side("demo/dcformer", "zebra"), "share no token"),
        (Side("demo/transformer", PROMPT, "uncomposed twin"), "composition is off"),
        (Side("demo/dcformer", PROMPT, "intervention", "{"), "This is no JSON"),
        (Side("demo/dcformer", PROMPT, "intervention", '[{"layers": [9]}]'), "9"),
        (Side("demo/dcformer", "word " * 2000), "Shorten the prompt"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_sentence(bench, b, message):
    with pytest.raises(ValueError, match=message):
        bench.comparison(A, b)
    assert bench.comparison(A, SECOND["twin"]).pairing == "same"


def test_a_model_that_reads_no_text_and_heads_that_cannot_be_the_same_are_refused(bench, others):
    with pytest.raises(ValueError, match="no tokenizer"):
        bench.comparison(A, Side(others["wordless"], PROMPT))
    with pytest.raises(ValueError, match="heads cannot be the same"):
        bench.comparison(A, Side(others["shallow"], PROMPT), same_heads=True)
    assert bench.comparison(A, SECOND["plain"], same_heads=True).pairing == "same"


# -- views -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def windowed():
    """Two prompts that share tokens, in a model whose layers see windows of 3, all, and 5 keys."""
    small = small_model("llama windows")
    one = some_tokens(11)
    other = torch.cat([torch.tensor([30, 31]), one[:5], torch.tensor([33]), one[6:]])
    found = compare(small, small, one, other_prompt=other)
    return found, comparisons.read_comparison(found, (str, str))


@pytest.mark.parametrize("kind", ["scores", "pattern"])
@pytest.mark.parametrize("stage", ["raw", "composed"])
def test_maps_are_those_of_aligned_tokens_and_absent_where_nothing_is_seen(windowed, kind, stage):
    found, reading = windowed
    maps = tuple({name: values[0] for name, values in run.maps(0, heads=2).items()} for run in found.runs)
    aligned = comparison_views.aligned_maps(maps, reading, kind, stage)
    view = comparison_views.pair_maps(aligned, reading, kind, stage, (6, 5), None)
    values = [panel.values for panel in view.panels]
    assert len({panel.full_scale for panel in view.panels}) == 1
    for row, (query_a, query_b) in enumerate(found.pairs):
        for col, (key_a, key_b) in enumerate(found.pairs):
            for side, (run, query, key) in enumerate(zip(found.runs, (query_a, query_b), (key_a, key_b), strict=True)):
                seen = 0 <= query - key < 3
                cell = getattr(run, kind)(0, stage, heads=2, queries=query, keys=key)
                assert np.isfinite(values[side][row, col]) == seen
                if seen:
                    assert values[side][row, col] == pytest.approx(float(cell), abs=1e-6)
    np.testing.assert_allclose(values[2], values[1] - values[0])
    part = comparison_views.pair_maps(aligned, reading, kind, stage, (6, 5), ((3, 8), (1, 7)))
    np.testing.assert_array_equal(part.panels[2].values, values[2][3:8, 1:7])
    assert part.panels[0].full_scale == view.panels[0].full_scale


def test_pairs_are_found_by_position_and_named_by_both(windowed):
    found, reading = windowed
    assert [reading.pair_of(at) for at in (0, 4, 10)] == [0, 4, 9]
    assert reading.pair_of(5) in (4, 5)  # token 5 of the first prompt has no partner
    names = comparison_views.pair_names(reading)
    assert names[6] == f"{found.runs[0].str_tokens[7]} 7/9"
    assert comparison_views.places_named(reading)[-1].endswith("the end in A, the end in B")


def test_a_click_means_the_largest_difference_below_it():
    a, b = np.zeros((800, 800)), np.zeros((800, 800))
    b[5, 3], a[4, 2] = -2.0, 1.0
    assert comparison_views.snap((a, b), (4, 2), ((0, 800), (0, 800))) == (5, 3)  # 800 cells are drawn on 384 pixels
    assert comparison_views.snap((a, b), (4, 2), ((4, 12), (0, 8))) == (4, 2)
    assert comparison_views.strongest_key((a, b), 5) == 3
    assert comparison_views.strongest_key((a, a), 4) == 2  # equal sides: where they are largest
    unseen = np.full((4, 4), np.nan)
    assert comparison_views.strongest_key((unseen, unseen), 1) == 1
    assert comparison_views.snap((unseen, unseen), (2, 1), None) == (2, 1)


def test_the_overview_holds_the_distances_of_pairs(bench, model):
    found, here = bench.comparison(A, SECOND["plain"]), bench.compared_place(A, SECOND["plain"], False, 5)
    view = comparison_views.pair_overview(found, here, found.pairs[5][0], (1, 3))
    for panel, table in zip(view.panels, (truth(model, "plain").heads, here.heads), strict=True):
        for row in table.itertuples():
            assert panel.values[row.layer, row.head_a] == pytest.approx(row.distance, abs=1e-5)
    assert view.selected == (1, 3)


def test_what_differs_most_comes_first(bench):
    found = bench.comparison(A, SECOND["twin"])
    tokens, heads = comparisons.most_changed_tokens(found), comparisons.most_changed_heads(found)
    assert tokens.kl.is_monotonic_decreasing
    assert heads.distance.is_monotonic_decreasing
    assert len(tokens) == len(found.tokens)
    row = tokens.iloc[0]
    assert row.loss_change == pytest.approx(row.loss_b - row.loss_a)


# -- figures -----------------------------------------------------------------------------------------


def test_the_figure_of_next_tokens_holds_both_probabilities():
    p_a, p_b = np.array([0.5, 0.1, np.nan]), np.array([0.2, 0.3, 0.4])
    figure = next_token_pairs_figure(["a", "b", "a"], p_a, p_b)
    np.testing.assert_array_equal(figure.data[1].x, p_a)
    np.testing.assert_array_equal(figure.data[2].x, p_b)
    assert list(figure.layout.yaxis.ticktext) == ["a", "b", "a"]  # equal tokens keep their rows
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the first one on top


def test_the_figure_of_a_metric_has_a_point_for_every_pair(bench):
    table = bench.compared_metrics(A, SECOND["plain"])
    rows = table[table["metric"] == "row_sum"]
    figure = metric_pairs_figure(rows, "weight", (2, 5))
    for trace, stage in zip(figure.data, ("raw", "composed"), strict=True):
        of_stage = rows[rows["stage"] == stage]
        assert list(trace.customdata) == list(of_stage.index)
        bright = [at for at, opacity in zip(trace.customdata, trace.marker.opacity, strict=True) if opacity == 1]
        assert rows.loc[bright][["layer", "head_a"]].to_numpy().tolist() == [[2, 5]]
        order = of_stage["a"].to_numpy().argsort()
        assert (np.diff(np.asarray(trace.x)[order]) >= 0).all()
    metric_pairs_figure(rows.iloc[:0], "weight")  # nothing to draw is drawn


def test_the_loss_figure_names_its_sides(bench):
    found = bench.comparison(A, SECOND["cut, other prompt"])
    rows, named = found.tokens, comparison_views.places_named(found)
    figure = changed_tokens_figure(
        *(rows[name].to_numpy() for name in ("loss_a", "loss_b", "kl")), rows.token.tolist(), 3, ("A", "B"), named
    )
    assert [unescape(text) for text in figure.data[0].hovertext] == named
    assert "loss A" in figure.data[0].hovertemplate
    np.testing.assert_allclose(
        np.asarray(figure.data[0].base, float) + np.asarray(figure.data[0].y, float), rows.loss_b
    )


# -- the script --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SECOND)
def test_the_copied_script_gives_the_numbers_of_the_page(bench, kind, tmp_path):
    b = SECOND[kind]
    found, here = bench.comparison(A, b), bench.compared_place(A, b, False, 7)
    partner = found.partner(3, 2)
    at = Place((3, 2), (3, partner), 7, 4)
    (tmp_path / "view.py").write_text(compare_script(A, b, False, at, "scores", "composed"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, tmp_path / "view.py"], cwd=ROOT, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    for name in ("loss_a", "loss_b", "kl", "same_next_token", "aligned_tokens"):
        assert printed["summary"][name] == pytest.approx(found.summary[name], abs=1e-5)
    np.testing.assert_allclose(printed["tokens"], found.tokens[["loss_a", "loss_b", "kl"]], atol=1e-4)
    np.testing.assert_allclose(printed["heads"], found.heads[["layer", "head_a", "head_b", "distance"]], atol=1e-4)
    np.testing.assert_allclose(printed["heads_at_query"], here.heads.distance, atol=1e-4)
    np.testing.assert_allclose(printed["next"], here.next[["p_a", "p_b"]], atol=1e-5)
    maps = bench.side_maps(A, 3, 2), bench.side_maps(b, 3, partner)
    values = comparison_views.aligned_maps(maps, found, "scores", "composed")
    assert printed["cell"] == pytest.approx([values[0][7, 4], values[1][7, 4]], abs=1e-4)
    metrics = bench.compared_metrics(A, b).query("layer == 3 and head_a == 2")
    assert [row[:2] for row in printed["metrics"]] == metrics[["metric", "stage"]].to_numpy().tolist()
    np.testing.assert_allclose([row[2:] for row in printed["metrics"]], metrics[["a", "b"]], atol=1e-4)
