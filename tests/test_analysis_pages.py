"""The pages Virtual heads and Heads: the numbers are the library's, for good and bad input, and in a real browser."""

from __future__ import annotations

import base64
import json
import re
import time

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest

from model import capture, load_model
from probes import Intervention
from probes.interventions import to_json
from probes.metrics import (
    HEAD_METRICS,
    head_metrics,
    repeated_random_tokens,
)
from probes.pre_and_post import pre_and_post_of_layer
from probes.virtual_heads import logit_direction, ranked_virtual_heads, score_contrast, virtual_heads
from tests.browser_tools import ROOT, open_browser, serve_streamlit, settled
from workbench.head_tables import TABLES, of_heads

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


def test_a_head_of_a_changed_run_opens_in_explore_under_the_same_change():
    change = to_json(Intervention(layers=[2], sites=["post"]))
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    app.query_params["prompt"], app.query_params["under"] = PROMPT, change
    app.run().switch_page("workbench/pages/virtual_heads.py").run()
    layer = app.session_state["vh layer"]
    next(button for button in app.button if button.label.startswith("Explore target head")).click().run()
    assert not app.exception
    assert not app.warning
    assert app.session_state["under"] == change
    assert app.selectbox(key="model").value == "demo/dcformer"
    assert app.session_state.selection.layer == layer


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
