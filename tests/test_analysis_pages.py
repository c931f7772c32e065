"""The pages Virtual heads and Heads: the numbers are the library's, for good and bad input, and in a real browser."""

from __future__ import annotations

import base64
import json
import re
import time

import numpy as np
import pandas as pd
import pytest
import torch
from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest

from model import capture, load_model
from probes.metrics import (
    HEAD_METRICS,
    diversity,
    head_metrics,
    mixing_metrics,
    raw_to_composed,
    repeated_random_tokens,
)
from probes.pre_and_post import pre_and_post_of_layer
from probes.virtual_heads import logit_direction, ranked_virtual_heads, score_contrast, virtual_heads
from tests.browser_tools import ROOT, open_browser, serve_streamlit
from tests.models import VARIANTS, small_model, some_tokens
from workbench.attributions import attribute_logit, head_keys, likely_tokens
from workbench.figures import (
    LayerPanel,
    by_layer_figure,
    head_matrices_figure,
    head_scatter_figure,
    virtual_head_flow_figure,
    virtual_head_keys_figure,
)
from workbench.figures.head_scatter import Scale
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


# -- figures -----------------------------------------------------------------------------------------


def test_matrices_share_one_scale_centred_on_0_and_the_frame_is_in_its_panel():
    panels = {f"layer {n}": np.full((3, 3), value) for n, value in enumerate((0.5, -2.0, 1.0, 0.1, 0.2))}
    figure = head_matrices_figure(panels, "logits", (1, 2, 0))
    colours = figure.layout.coloraxis
    assert (colours.cmin, colours.cmax) == (-2, 2)
    for trace, values in zip(figure.data, panels.values(), strict=True):
        np.testing.assert_array_equal(trace.z, values)
    frame = figure.layout.shapes[0]
    assert (frame.xref, frame.yref, frame.x0, frame.y0) == ("x2", "y2", -0.5, 1.5)
    assert "source 2 → target 0" in figure.data[1].text[2, 0]


def test_sums_stand_below_a_gap_and_count_for_the_scale():
    values = np.array([[1.0, -1.0], [2.0, -3.0]])
    figure = head_matrices_figure({"": values}, "score", sums=True)
    shown = figure.data[0].z
    np.testing.assert_array_equal(shown[[0, 1, 3]], [[1, -1], [2, -3], [3, -4]])
    assert np.isnan(shown[2]).all()
    assert figure.layout.coloraxis.cmax == 4
    assert head_matrices_figure({"": np.zeros((2, 2))}, "score").layout.coloraxis.cmax == 1


def test_the_flow_holds_the_largest_virtual_heads_with_their_signs():
    figure = virtual_head_flow_figure(np.array([[0.1, -3.0], [2.0, 0.0]]), count=2)
    links, nodes = figure.data[0].link, figure.data[0].node.label
    flows = [(nodes[a], nodes[b], w) for a, b, w in zip(links.source, links.target, links.value)]
    assert flows == [
        ("pattern of source 0", "values of target 1", 3.0),
        ("pattern of source 1", "values of target 0", 2.0),
    ]
    assert links.customdata.tolist() == [-3.0, 2.0]
    assert links.color[0] != links.color[1]


def test_bars_of_a_virtual_head_stand_at_the_positions_of_their_keys():
    row = np.array([0.25, 0.75]), np.array([-1.0, 2.0]), np.array([-0.5, 0.25])
    figure = virtual_head_keys_figure(*row, ["a", "b"], first=6)
    for bars, values in zip(figure.data, row, strict=True):
        np.testing.assert_array_equal(bars.x, [6, 7])
        np.testing.assert_array_equal(bars.y, values)
    assert list(figure.layout.xaxis.ticktext) == ["a", "b"]
    many = np.ones(65)
    assert virtual_head_keys_figure(many, many, many, ["a"] * 65).layout.xaxis.ticktext is None


@pytest.fixture
def heads() -> pd.DataFrame:
    rows = [(0, 0, "raw", 0.1, 1.0), (0, 0, "composed", -8.0, np.nan), (0, 1, "raw", 0.2, 2.0)]
    return pd.DataFrame([*rows, (0, 1, "composed", 12.0, -3.0)], columns=["layer", "head", "stage", "a", "b"])


def test_the_scatter_joins_the_two_points_of_a_head_and_leaves_out_what_a_metric_refuses(heads):
    joins, raw, composed = head_scatter_figure(heads, "a", "b", ("A", "B"), robust=False).data
    np.testing.assert_array_equal(joins.x, [0.2, 12.0, np.nan])
    np.testing.assert_array_equal(joins.y, [2.0, -3.0, np.nan])
    np.testing.assert_array_equal(raw.x, [0.1, 0.2])
    np.testing.assert_array_equal(composed.customdata, [3])
    assert "layer 0, head 1, composed" in composed.hovertext[0]
    assert raw.marker.symbol != composed.marker.symbol


def test_filtered_heads_stand_out(heads):
    joins, raw, _ = head_scatter_figure(heads, "a", "b", ("A", "B"), {(0, 0)}).data
    assert len(joins.x) == 0
    assert raw.marker.opacity[0] > raw.marker.opacity[1]


def test_the_robust_scale_keeps_order_and_its_ticks_stand_at_their_values():
    values = np.array([-12.4, -0.3, 0.0, 0.02, 0.5, 38.1])
    scale = Scale.of(values)
    assert (np.diff(scale.place(values)) > 0).all()
    axis = scale.axis(values)
    ticks = np.array([float(text) for text in axis["ticktext"]])
    np.testing.assert_allclose(scale.place(ticks), axis["tickvals"])
    assert {-10.0, 0.0, 10.0} <= set(ticks)
    assert np.diff(axis["tickvals"]).min() > 0.05 * np.ptp(scale.place(values))
    assert np.ptp(scale.place(values)) < 15  # 38.1 is 76 times 0.5
    assert "tickvals" not in Scale.of(np.zeros(3)).axis(np.zeros(3))


def test_by_layer_draws_a_line_for_each_stage_that_a_metric_takes():
    table = pd.DataFrame({"layer": [0, 0, 1, 1], "stage": ["raw", "composed"] * 2,
                          "a": [1.0, 2.0, 3.0, 4.0], "b": [5.0, np.nan, 6.0, np.nan]})  # fmt: skip
    panels = [LayerPanel("a", "A", "nats", 0.0), LayerPanel("b", "B", "share", 1.0)]
    figure = by_layer_figure(table, "stage", panels)
    drawn = {(line.name, line.yaxis): list(line.y) for line in figure.data}
    assert drawn == {("raw", "y"): [1, 3], ("composed", "y"): [2, 4], ("raw", "y2"): [5, 6], ("composed", "y2"): []}
    assert [shape.y0 for shape in figure.layout.shapes] == [0.0, 1.0]


# -- Virtual heads as a script -----------------------------------------------------------------------


def opened(page: str, prompt: str = PROMPT) -> AppTest:
    # the page imports the whole model stack, so the first run is slow
    at = AppTest.from_file(str(ROOT / f"workbench/pages/{page}.py"), default_timeout=120).run()
    return at.text_area(key="prompt").set_value(prompt).run()


def shown(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def assert_attributes(page: AppTest, model, run, query: int, token: int, contrast: int | None = None) -> None:
    """The numbers of the page are those of the largest virtual head of this question."""
    assert not page.exception
    assert not page.error
    direction, numbers = logit_direction(model, run, query, token, contrast), shown(page)
    truth = ranked_virtual_heads(run, query, direction, count=None)
    np.testing.assert_allclose(page.dataframe[0].value.attribution, truth.attribution, atol=1e-6)
    top = truth.iloc[0]
    assert float(numbers["attribution"]) == pytest.approx(top.attribution, abs=1e-4)
    assert float(numbers["norm"]) == pytest.approx(top.norm, abs=1e-3)
    layer = int(top.layer)
    total = float(virtual_heads(run, layer, query, direction).attribution.sum())
    assert float(numbers[f"sum of pieces, layer {layer}"]) == pytest.approx(total, abs=1e-4)
    assert float(numbers[f"attention output, layer {layer}"]) == pytest.approx(total, abs=1e-4)
    orders = pre_and_post_of_layer(run, layer, query, direction)
    assert page.dataframe[1].value.post.tolist() == pytest.approx(orders.table().post.tolist(), abs=1e-6)
    assert float(numbers["mixing neither"]) == pytest.approx(orders.neither, abs=1e-4)


def test_virtual_heads_opens_on_the_likeliest_token_after_the_last_position(model, run):
    page = opened("virtual_heads")
    query = len(run) - 1
    assert_attributes(page, model, run, query, int(run.logits[query].argmax()))
    assert any("exact with the final norm's scale frozen" in caption.value for caption in page.caption)
    assert any("do not commute" in caption.value for caption in page.caption)


def test_another_position_token_and_contrast(model, run):
    page = opened("virtual_heads")
    page.session_state["vh_query"] = 9
    page.run()
    first, second = run.logits[9].topk(2).indices.tolist()
    assert_attributes(page, model, run, 9, first)
    page.selectbox(key="vh contrast").set_value(second).run()
    assert_attributes(page, model, run, 9, first, second)
    page.text_input(key="vh token text").set_value(" apple").run()
    assert_attributes(page, model, run, 9, model.to_single_token(" apple"), second)
    page.text_input(key="vh contrast text").set_value(" violin").run()
    assert_attributes(page, model, run, 9, *map(model.to_single_token, (" apple", " violin")))


def test_a_text_that_is_no_token_is_said_so_and_the_next_one_works(model, run):
    page = opened("virtual_heads")
    page.text_input(key="vh token text").set_value(" Mary has").run()
    assert "tokens in this vocabulary, not one" in page.error[0].value
    assert not page.exception
    assert not page.metric
    page.text_input(key="vh token text").set_value(" Mary").run()
    assert_attributes(page, model, run, len(run) - 1, model.to_single_token(" Mary"))


def test_a_chosen_virtual_head_shows_its_own_numbers(model, run):
    page = opened("virtual_heads")
    for part, value in {"layer": 1, "source head": 6, "target head": 2}.items():
        page.selectbox(key=f"vh {part}").set_value(value).run()
    query = len(run) - 1
    direction = logit_direction(model, run, query, int(run.logits[query].argmax()))
    truth = virtual_heads(run, 1, query, direction)
    numbers = shown(page)
    assert float(numbers["attribution"]) == pytest.approx(float(truth.attribution[6, 2]), abs=1e-4)
    assert float(numbers["weight"]) == pytest.approx(float(truth.weight[6, 2]), abs=1e-3)
    assert "sum of pieces, layer 1" in numbers


def test_a_key_that_the_query_does_not_see_is_said_so(run):
    page = opened("virtual_heads")
    page.session_state["vh_query"] = 9
    page.run()
    page.session_state["vh_key"] = 12
    page.run()
    assert any("Query 9 sees keys" in info.value for info in page.info)
    page.session_state["vh_key"] = 8
    page.run()
    assert not page.info
    assert not page.exception


def test_the_pre_side_is_the_score_contrast(run):
    page = opened("virtual_heads")
    page.session_state["vh_key"] = key = len(run) - 2
    page.run()
    layer = page.session_state["vh layer"]
    figure = page.get("plotly_chart")[-1].proto.spec
    truth = score_contrast(run, layer, len(run) - 1, key).numpy()
    z = json.loads(figure)["data"][0]["z"]
    values = np.frombuffer(base64.b64decode(z["bdata"]), z["dtype"]).reshape([int(n) for n in z["shape"].split(",")])
    np.testing.assert_allclose(values[:8], truth, atol=1e-6)
    np.testing.assert_allclose(values[9], truth.sum(0), atol=1e-6)


def test_the_plain_model_has_virtual_heads_on_the_diagonal_alone():
    page = opened("virtual_heads")
    page.selectbox(key="model").select("demo/transformer").run()
    assert not page.exception
    assert "mixes no heads" in page.info[0].value
    table = page.dataframe[0].value
    assert (table[table.source != table.target].attribution == 0).all()
    assert any("nothing to divide between 'pre' and 'post'" in info.value for info in page.info)


PAGES = ("virtual_heads", "heads")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("prompt", [" Mary", " ", "🙂 שלום", "<b>x</b> $x$ **y** `z`"])
def test_strange_prompts_are_answered(name, prompt):
    page = opened(name, prompt)
    assert not page.exception
    assert not page.error
    assert len(page.dataframe)


@pytest.mark.parametrize("name", PAGES)
def test_bad_prompts_are_answered_with_a_message(name):
    page = opened(name, "")
    assert "Type a prompt on the left" in page.info[0].value
    page.text_area(key="prompt").set_value("word " * 2000).run()
    assert "the context of this model is 1024" in page.error[0].value
    assert not page.exception
    page.text_area(key="prompt").set_value(PROMPT).run()
    assert len(page.dataframe)


# -- Heads as a script -------------------------------------------------------------------------------


def test_heads_shows_every_head_with_the_librarys_numbers(run):
    page = opened("heads")
    assert not page.exception
    pd.testing.assert_frame_equal(page.dataframe[0].value, of_heads(run).table, check_dtype=False)
    assert any("signed and their rows sum to anything" in caption.value for caption in page.caption)


def test_every_definition_is_one_click_away():
    page = opened("heads")
    page.radio(key="heads text").set_value("repeated random tokens").run()
    texts = re.sub(r"\\(.)", r"\1", " ".join(text.value for text in page.expander[0].markdown))
    for metric in HEAD_METRICS:
        assert metric.definition in texts
        assert metric.unit in texts


@pytest.mark.parametrize(("kind", "make"), list(TABLES.items())[1:])
def test_every_other_table_is_shown(run, kind, make):
    page = opened("heads")
    page.session_state["heads kind"] = kind
    page.run()
    assert not page.exception
    pd.testing.assert_frame_equal(page.dataframe[0].value, make(run).table, check_dtype=False)


def test_random_tokens_are_measured_in_the_place_of_the_prompt(model):
    page = opened("heads", NO_REPEATS)
    assert "induction" not in page.dataframe[0].value
    assert any("Induction" in caption.value and "Not measured" in caption.value for caption in page.caption)
    page.radio(key="heads text").set_value("repeated random tokens").run()
    page.number_input(key="heads Tokens in a block").set_value(12).run()
    page.number_input(key="heads Seed").set_value(3).run()
    truth = of_heads(capture(model, repeated_random_tokens(model, 12, 2, 3))).table
    pd.testing.assert_frame_equal(page.dataframe[0].value, truth, check_dtype=False)
    page.number_input(key="heads Repeats").set_value(64).run()
    page.number_input(key="heads Tokens in a block").set_value(40).run()
    assert "Choose a shorter block or fewer repeats" in page.error[0].value
    assert not page.exception


def test_a_filter_lets_the_top_heads_through(run):
    page = opened("heads")
    page.selectbox(key="heads filter").select("previous_token").run()
    assert not page.exception
    composed = head_metrics(run, ["previous_token"]).query("stage == 'composed'").nlargest(5, "value")
    rows = page.dataframe[0].value
    assert list(dict.fromkeys(zip(rows.layer, rows["head"]))) == list(zip(composed.layer, composed["head"]))
    assert set(rows.stage) == {"raw", "composed"}
    assert page.selectbox(key="heads Across").value == "previous_token"
    threshold = next(n for n in page.number_input if n.label == "Threshold")
    threshold.set_value(1e6).run()
    assert not page.exception
    assert page.dataframe[0].value.empty


def test_every_filter_and_axis_works(run):
    page = opened("heads")
    for metric in of_heads(run).metrics:
        page.selectbox(key="heads filter").select(metric.name).run()
        page.selectbox(key="heads Across").select(metric.name).run()
        assert not page.exception, metric.name
        assert len(page.dataframe[0].value) >= 10, metric.name


def test_a_filter_that_another_prompt_does_not_allow_is_dropped():
    page = opened("heads")
    page.selectbox(key="heads filter").select("induction").run()
    page.selectbox(key="heads Up").select("induction").run()
    page.text_area(key="prompt").set_value(NO_REPEATS).run()
    assert not page.exception
    assert page.selectbox(key="heads filter").value == "all heads"


def test_the_plain_model_has_raw_heads_alone():
    page = opened("heads")
    page.selectbox(key="model").select("demo/transformer").run()
    assert not page.exception
    assert "mixes no heads" in page.info[0].value
    assert set(page.dataframe[0].value.stage) == {"raw"}
    for kind, tables in {"diversity": 1, "mixing": 0, "raw to composed": 0}.items():
        page.session_state["heads kind"] = kind
        page.run()
        assert not page.exception
        assert len(page.dataframe) == tables


def test_choices_stay_while_another_page_is_shown_and_explore_opens_at_the_head():
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120).run()
    app.text_area(key="prompt").set_value(PROMPT).run()
    app.switch_page("workbench/pages/virtual_heads.py").run()
    app.selectbox(key="vh source head").set_value(5).run()
    app.selectbox(key="vh target head").set_value(6).run()
    before, layer = shown(app), app.session_state["vh layer"]
    app.switch_page("workbench/pages/heads.py").run()
    app.selectbox(key="heads filter").select("row_sum").run()
    app.switch_page("workbench/pages/virtual_heads.py").run()
    assert app.selectbox(key="vh source head").value == 5
    assert shown(app) == before
    next(button for button in app.button if button.label == "Explore target head 6").click().run()
    assert not app.exception
    at = app.session_state.selection
    assert (at.layer, at.head) == (layer, 6)
    app.switch_page("workbench/pages/heads.py").run()
    assert app.selectbox(key="heads filter").value == "row_sum"


# -- in a real browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serve_streamlit(ROOT / "app.py", log=tmp_path_factory.mktemp("analysis") / "app.log") as url:
        yield url


@pytest.fixture
def tab(address):
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(PATIENCE)
        page.goto(address)
        page.get_by_test_id("token-strip").wait_for()
        box = page.get_by_label("Prompt", exact=True)
        box.fill(PROMPT)
        box.press("Control+Enter")
        settled(page)
        yield page


def settled(page: Page) -> None:
    """Wait until the page has answered."""
    time.sleep(0.5)
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=PATIENCE)
    time.sleep(0.3)


def select_row(page: Page, table: int, row: int) -> None:
    """Tick the box in front of a row; rows are drawn on a canvas, 35 px each below a header of the same height."""
    grid = page.get_by_test_id("stDataFrame").nth(table)
    # what scrolls the rows lies above the canvas, and takes the click
    grid.locator(".dvn-scroller").click(position={"x": 18, "y": 35 * (row + 1.5)})
    settled(page)


def click_point(page: Page, number: int) -> None:
    """Click a composed point of the scatter plot: the third trace, after lines and raw points."""
    point = page.locator(".js-plotly-plot .scatterlayer .trace").nth(2).locator(".point").nth(number)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    time.sleep(0.3)  # plotly looks for the point under the pointer before it takes a click
    page.mouse.down()
    page.mouse.up()
    settled(page)


@pytest.mark.browser
def test_a_person_takes_a_prediction_apart_and_follows_a_virtual_head_into_explore(tab, model, run):
    tab.get_by_role("link", name="Virtual heads").click()
    expect(tab.get_by_text("which pairs of heads make a prediction")).to_be_visible()
    settled(tab)
    tab.get_by_test_id("token-strip").locator("button").nth(9).click()
    settled(tab)
    ranked = ranked_virtual_heads(run, 9, logit_direction(model, run, 9, int(run.logits[9].argmax())))
    select_row(tab, 0, 2)
    third = ranked.iloc[2]
    metric = tab.get_by_test_id("stMetric").filter(has_text=re.compile("^attribution")).get_by_test_id("stMetricValue")
    expect(metric).to_have_text(f"{third.attribution:+.4f}")
    expect(tab.locator(".js-plotly-plot .sankey-link").first).to_be_attached()
    tab.get_by_role("button", name=f"Explore target head {int(third.target)}").click()
    heading = f"Layer {int(third.layer)}, head {int(third.target)}: before and after mixing"
    expect(tab.get_by_text(heading)).to_be_visible()
    expect(tab.get_by_text(re.compile("at query 9 and key"))).to_be_visible()
    expect(tab.get_by_label("Prompt", exact=True)).to_have_value(PROMPT)


@pytest.mark.browser
def test_a_person_filters_heads_clicks_one_and_opens_it_in_explore(tab, run):
    tab.get_by_role("link", name="Heads", exact=True).click()
    expect(tab.get_by_text("A thin line joins")).to_be_visible()
    settled(tab)
    tab.get_by_role("combobox", name="Show").click()
    tab.get_by_role("option", name="previous-token heads", exact=True).click()
    settled(tab)
    expect(tab.get_by_text(re.compile("5 of 32 heads"))).to_be_visible()
    rows = tab.get_by_test_id("stDataFrame").last.locator("table")
    expect(rows).to_have_attribute("aria-rowcount", "11")  # a header, and 5 heads raw and composed
    select_row(tab, -1, 0)
    top = head_metrics(run, ["previous_token"]).query("stage == 'composed'").nlargest(1, "value").iloc[0]
    expect(tab.get_by_role("button", name=f"Open layer {top.layer}, head {top['head']} in Explore")).to_be_visible()
    table = of_heads(run).table
    lowest = table[table.stage == "composed"].reset_index(drop=True).first_token.idxmin()  # no other point is near
    click_point(tab, lowest)
    layer, head = divmod(int(lowest), 8)
    tab.get_by_role("button", name=f"Open layer {layer}, head {head} in Explore").click()
    expect(tab.get_by_text(f"Layer {layer}, head {head}: before and after mixing")).to_be_visible()
    expect(tab.get_by_label("Prompt", exact=True)).to_have_value(PROMPT)
