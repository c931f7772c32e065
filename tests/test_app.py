"""The Explore page: as a script with good and bad input, and in a real browser as a person uses it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from playwright.sync_api import Page, expect
from plotly.offline import get_plotlyjs
from streamlit.testing.v1 import AppTest

from model import capture, load_model
from tests.browser_tools import ROOT, serve_streamlit, settled
from workbench.session import Workbench
from workbench.viewer.encoding import SMALL_PX

PROMPT = "< Mary has an apple. John has a violin. >. Who has violin?"
PATIENCE = 60_000  # ms; a busy machine is slow, and no test here measures speed


def opened() -> AppTest:
    # the page imports the whole model stack, so the first run is slow
    return AppTest.from_file(str(ROOT / "workbench/pages/explore.py"), default_timeout=120).run()


def test_the_page_opens_on_the_bundled_pair_with_a_prompt():
    page = opened()
    assert not page.exception
    assert page.selectbox(key="model").options == ["demo/dcformer", "demo/transformer"]
    assert "violin" in page.text_area(key="prompt").value
    assert any("How the heads are composed" in heading.value for heading in page.subheader)
    assert len(page.metric) == 4


@pytest.mark.parametrize("page", ["explore", "compare", "heads", "intervene", "virtual_heads", "tasks_page"])
def test_folders_of_models_are_read_once_a_run_of_a_page(page, monkeypatch):
    asked, names = [], Workbench.model_names
    monkeypatch.setattr(Workbench, "model_names", lambda bench: asked.append(page) or [*names(bench), f"{len(asked)}"])
    app = AppTest.from_file(str(ROOT / f"workbench/pages/{page}.py"), default_timeout=120).run()
    assert not app.exception
    assert asked == [page]
    app.run()
    assert asked == [page] * 2
    offered = [*app.selectbox, *app.multiselect][:9]
    assert any(one.options[-1] == "2" for one in offered if "demo/dcformer" in one.options)  # what there is by now


def test_no_download_of_a_session_holds_a_capture(monkeypatch):
    # Streamlit keeps what makes a file as long as the session lives; captures belong to the bounded cache alone
    makers = []
    monkeypatch.setattr(st, "download_button", lambda label, data, *_, **__: makers.append((label, data)))
    assert not opened().exception
    assert {"Save capture", "HTML", "CSV"} <= {label for label, _ in makers}
    for label, maker in makers:
        held = [type(value).__name__ for value in enclosed(maker)]
        assert "Capture" not in held, label


def enclosed(function) -> Iterator[object]:
    """What a function keeps from where it was made, and what the functions among that keep."""
    parts = [*function.args, function.func] if isinstance(function, partial) else [function]
    for part in parts:
        yield part
        for at in getattr(part, "__closure__", None) or ():
            yield from enclosed(at.cell_contents)


def test_the_numbers_on_the_page_are_the_librarys():
    page = opened()
    page.text_area(key="prompt").set_value(PROMPT).run()
    run, at = capture(load_model("demo/dcformer"), PROMPT), page.session_state.selection
    shown = {metric.label: float(metric.value) for metric in page.metric}
    for stage in ("raw", "composed"):
        truth = run.pattern(at.layer, stage, heads=at.head, queries=at.query, keys=at.key)
        assert shown[f"{stage}, head {at.head}"] == pytest.approx(float(truth), abs=1e-4)
    row = run.pattern(at.layer, heads=at.head, queries=at.query).sum()
    assert shown["row sum of composed pattern"] == pytest.approx(float(row), abs=1e-3)


def test_the_plain_model_says_that_nothing_is_mixed():
    page = opened()
    page.selectbox(key="model").select("demo/transformer").run()
    assert not page.exception
    assert "mixes no heads" in page.info[0].value


@pytest.mark.parametrize(
    ("prompt", "kind", "message"),
    [
        ("", "info", "Type a prompt on the left"),
        ("word " * 2000, "error", "the context of this model is 1024"),
    ],
)
def test_bad_prompts_are_answered_with_a_message(prompt, kind, message):
    page = opened()
    page.text_area(key="prompt").set_value(prompt).run()
    assert not page.exception
    assert message in getattr(page, kind)[0].value
    page.text_area(key="prompt").set_value(PROMPT).run()  # and the next one works
    assert len(page.metric) == 4


@pytest.mark.parametrize(
    "prompt", [" ", "\n\n", "🙂 שלום \u202e \x07", "<script>alert(1)</script> <b>x</b>", "a" * 300]
)
def test_strange_prompts_are_shown(prompt):
    page = opened()
    page.text_area(key="prompt").set_value(prompt).run()
    assert not page.exception
    assert len(page.metric) == 4


# -- in a real browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serve_streamlit(ROOT / "app.py", log=tmp_path_factory.mktemp("app") / "app.log") as url:
        yield url


@pytest.fixture
def page(browser, address):
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    tab.set_default_timeout(PATIENCE)
    tab.goto(address)
    tab.get_by_test_id("token-strip").wait_for()
    yield tab
    tab.close()


def type_prompt(page: Page, text: str, tokens: int) -> None:
    box = page.get_by_label("Prompt", exact=True)
    box.fill(text)
    box.press("Control+Enter")
    expect(page.get_by_test_id("token-strip").locator("button")).to_have_count(tokens, timeout=PATIENCE)
    settled(page)


def maps(page: Page):
    return page.get_by_test_id("map-viewer").nth(1)


def click_cell(page: Page, panel: int, row: int, col: int, size: int) -> None:
    canvas = maps(page).get_by_test_id("map-canvas").nth(panel)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = (box["width"] * (at + 0.5) / size for at in (col, row))
    canvas.click(position={"x": x, "y": y * box["height"] / box["width"]})


def shown_matrix(page: Page) -> np.ndarray:
    """The values of the whole matrix, read one by one by pointing at them."""
    viewer = page.get_by_test_id("map-viewer").nth(2)
    canvas = viewer.get_by_test_id("map-canvas").first
    canvas.scroll_into_view_if_needed()
    side = canvas.bounding_box()["width"] / 8
    found = np.zeros((8, 8))
    for source, target in np.ndindex(8, 8):
        canvas.hover(position={"x": (target + 0.5) * side, "y": (source + 0.5) * side})
        expect(viewer.get_by_test_id("map-readout")).to_contain_text(f"source head {source}, target head {target}")
        found[source, target] = viewer.get_by_test_id("map-value").first.get_attribute("data-value")
    return found


@pytest.mark.browser
def test_a_person_types_a_prompt_clicks_a_cell_and_reads_its_mixing_matrix(page):
    run = capture(load_model("demo/dcformer"), PROMPT)
    type_prompt(page, PROMPT, len(run))
    click_cell(page, panel=1, row=9, col=4, size=len(run))
    expect(page.get_by_text("M_post at query 9 and key 4")).to_be_visible(timeout=PATIENCE)
    settled(page)
    layer, head = map(int, re.search(r"Layer (\d+), head (\d+):", page.inner_text("body")).groups())
    truth = run.mixing(layer, "post").matrix(9, 4).numpy()
    np.testing.assert_allclose(shown_matrix(page), truth, rtol=1e-5)
    composed = float(run.pattern(layer, heads=head, queries=9, keys=4))
    metric = page.get_by_test_id("stMetric").filter(has_text="composed, head").get_by_test_id("stMetricValue")
    assert float(metric.inner_text()) == pytest.approx(composed, abs=1e-4)


@pytest.mark.browser
def test_a_click_into_a_matrix_opens_the_head_of_its_column(page):
    canvas = page.get_by_test_id("map-viewer").nth(2).get_by_test_id("map-canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 3.5 / 8, "y": box["height"] * 5.5 / 8})
    expect(page.get_by_text(re.compile(r"Layer \d, head 3: before and after mixing"))).to_be_visible(timeout=PATIENCE)


@pytest.mark.browser
def test_every_map_saves_its_pictures_and_lets_go_of_its_zoom(page):
    """The menu of files is drawn over the footer of a map; its buttons stay within reach."""
    viewers = page.get_by_test_id("map-viewer")
    expect(viewers).to_have_count(4, timeout=PATIENCE)
    for viewer in viewers.all():
        viewer.scroll_into_view_if_needed()
        for kind, start in (("png", b"\x89PNG"), ("svg", b"<svg")):
            with page.expect_download() as download:
                viewer.get_by_test_id(f"map-save-{kind}").click()
            assert Path(download.value.path()).read_bytes().startswith(start)
    large = viewers.nth(1)
    large.get_by_test_id("map-canvas").first.scroll_into_view_if_needed()
    box = large.get_by_test_id("map-canvas").first.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 120, steps=4)
    page.mouse.up()
    large.get_by_test_id("map-reset-zoom").click()
    expect(large.get_by_test_id("map-reset-zoom")).to_be_hidden(timeout=PATIENCE)


@pytest.mark.browser
def test_a_click_on_the_overview_opens_that_head(page):
    canvas = page.get_by_test_id("map-viewer").first.get_by_test_id("map-canvas").first
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 2.5 / 8, "y": box["height"] * 1.5 / 4})
    expect(page.get_by_text("Layer 1, head 2: before and after mixing")).to_be_visible(timeout=PATIENCE)


@pytest.mark.browser
def test_a_small_map_is_as_large_as_what_is_sent_of_it_and_a_click_opens_its_head(page):
    places = page.get_by_test_id("thumbnails").locator("button")
    expect(places).to_have_count(8, timeout=PATIENCE)
    assert [canvas.bounding_box()["width"] for canvas in places.locator("canvas").all()] == [SMALL_PX] * 8
    places.nth(5).click()
    expect(page.get_by_text(re.compile(r"Layer \d, head 5: before and after mixing"))).to_be_visible(timeout=PATIENCE)


@pytest.mark.browser
def test_tokens_choose_query_and_key(page):
    chips = page.get_by_test_id("token-strip").locator("button")
    chips.nth(7).click()
    expect(page.get_by_text(re.compile("at query 7 and key"))).to_be_visible(timeout=PATIENCE)
    chips.nth(3).click(modifiers=["Shift"])
    expect(page.get_by_text("M_post at query 7 and key 3")).to_be_visible(timeout=PATIENCE)
    expect(chips.nth(7)).to_have_class(re.compile("query"))
    expect(chips.nth(3)).to_have_class(re.compile("key"))


def in_sight(strip, chip):
    """Does the strip, which scrolls, show this chip?"""
    (outer, inner) = (place.bounding_box() for place in (strip, chip))
    return outer["y"] <= inner["y"] and inner["y"] + inner["height"] <= outer["y"] + outer["height"] + 1


@pytest.mark.browser
def test_a_long_prompt_is_a_strip_in_groups_that_shows_the_query(page):
    model = load_model("demo/dcformer")
    text = " ".join(["Mary has a violin."] * 45)
    count = len(model.to_str_tokens(text))
    assert count > 210
    type_prompt(page, text, count)
    strip = page.get_by_test_id("token-strip")
    groups, chips = strip.locator(".group"), strip.locator("button")
    assert [group.get_attribute("data-start") for group in groups.all()] == [str(at) for at in range(0, count, 100)]
    assert [group.locator("button").count() for group in groups.all()][:2] == [100, 100]
    assert in_sight(strip, chips.nth(count - 1))  # where a prompt's query is at first
    chips.nth(99).click()
    for _ in range(5):  # into the next group, and on before any of them is answered
        page.keyboard.press("ArrowRight")
    expect(page.get_by_text(re.compile("at query 104 and key"))).to_be_visible(timeout=PATIENCE)
    expect(chips.nth(104)).to_be_focused()
    assert in_sight(strip, chips.nth(104))
    type_prompt(page, "Mary has a violin.", len(model.to_str_tokens("Mary has a violin.")))
    expect(groups).to_have_count(1)


@pytest.mark.browser
def test_switching_to_scores_shows_the_other_site(page):
    page.get_by_text("scores", exact=True).click()
    expect(page.get_by_text(re.compile("M_pre at query"))).to_be_visible(timeout=PATIENCE)


@pytest.mark.browser
def test_markup_in_a_prompt_stays_text(page):
    asked = []
    page.on("dialog", lambda dialog: asked.append(dialog.message) or dialog.dismiss())
    text = 'x <img src=x onerror=alert(1)> <script>alert("hi")</script>'
    type_prompt(page, text, len(load_model("demo/dcformer").to_str_tokens(text)))
    assert not asked
    assert page.locator("img[src='x']").count() == 0


@pytest.mark.browser
def test_a_session_asks_nothing_of_the_internet(browser, address):
    tab, asked = browser.new_page(), []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    tab.get_by_test_id("token-strip").wait_for(timeout=PATIENCE)
    settled(tab)
    outside = [url for url in asked if not url.startswith((address, address.replace("http", "ws"), "data:", "blob:"))]
    tab.close()
    assert outside == []


@pytest.mark.browser
def test_the_report_draws_offline(browser, tmp_path):
    from click.testing import CliRunner

    from workbench.cli import main

    out = tmp_path / "report.html"
    done = CliRunner().invoke(main, ["inspect", "--prompt", PROMPT, "--out", str(out)])
    assert done.exit_code == 0
    tab, asked, errors = browser.new_page(), [], []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(out.as_uri())
    expect(tab.locator('[data-testid="map-viewer"][data-state="ready"]')).to_have_count(3, timeout=PATIENCE)
    expect(tab.locator(".js-plotly-plot")).to_have_count(4, timeout=PATIENCE)  # a matrix and its sources, of both sites
    for plot in tab.locator(".js-plotly-plot").all():
        expect(plot.locator(".main-svg").first).to_be_visible(timeout=PATIENCE)
    tab.close()
    assert out.stat().st_size < len(get_plotlyjs()) / 2  # plotly's script stands in it once, compressed
    assert errors == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
