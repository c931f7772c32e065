"""The map viewer as a person uses it, in a real browser: click, zoom, keys, reruns, themes, documents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser_tools import serve_streamlit
from tests.test_viewer import causal_noise, noise, view_of
from workbench.viewer import (
    Labels,
    MapView,
    Panel,
    fragment_html,
    max_abs,
    script_html,
    standalone_html,
)

NAN = np.nan
SIZE = 1024

PAGE = """
import numpy as np
import streamlit as st
from workbench.viewer import Labels, MapView, Panel
from workbench.viewer.component import map_viewer, read_event
from tests.test_viewer_browser import SIZE, big_map

st.set_page_config(layout="wide")
event = read_event("map", (SIZE, SIZE))
kept = st.session_state
kept.window = event.window or kept.get("window") or ((0, SIZE), (0, SIZE))
kept.picked = event.pick or kept.get("picked")
(r0, r1), (c0, c1) = kept.window
names = ["<b>t</b>" + str(index) for index in range(SIZE)]
panels = [Panel(f"panel {k}", big_map(k)[r0:r1, c0:c1], scale=4) for k in range(3)]
view = MapView(
    panels, Labels("query", names), Labels("key", names), selected=kept.picked, window=kept.window, size=(SIZE, SIZE)
)
returned = map_viewer(view, key="map") if st.checkbox("show", True) else None
st.text(f"picked {kept.picked}")
st.text(f"window {kept.window}")
st.text(f"same {returned == event}")
st.button("rerun")
"""


def big_map(panel: int) -> np.ndarray:
    """[SIZE, SIZE]: +3, -3 and 2 in panels 0, 1 and 2, varied by a third so that every cell can be told apart."""
    rows, cols = np.indices((SIZE, SIZE))
    values = (3.0, -3.0, 2.0)[panel] + ((rows * 7 + cols * 3) % 11 - 5) / 10
    return np.where(cols <= rows, values, NAN).astype(np.float32)


@pytest.fixture(scope="module")
def address(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    script = tmp_path_factory.mktemp("viewer") / "page.py"
    script.write_text(PAGE, encoding="utf-8")
    with serve_streamlit(script) as url:
        yield url


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test when its scripts raise."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    yield opened
    opened.close()
    assert not problems


@pytest.fixture
def app(page: Page, address: str) -> Page:
    page.goto(address)
    expect(viewer(page)).to_have_attribute("data-state", "ready", timeout=30_000)
    return page


def viewer(page: Page) -> Locator:
    return page.get_by_test_id("map-viewer")


def canvas(page: Page, panel: int) -> Locator:
    return page.locator(f'canvas[data-panel="{panel}"]')


def window_of(page: Page) -> tuple[int, int, int, int]:
    r0, r1, c0, c1 = map(int, (viewer(page).get_attribute("data-window") or "").split(","))
    return r0, r1, c0, c1


def point_of_cell(page: Page, panel: int, row: int, col: int) -> tuple[float, float]:
    """The page's coordinates of the middle of a cell."""
    box = canvas(page, panel).bounding_box()
    assert box is not None
    r0, r1, c0, c1 = window_of(page)
    x = box["x"] + box["width"] * (col + 0.5 - c0) / (c1 - c0)
    y = box["y"] + box["height"] * (row + 0.5 - r0) / (r1 - r0)
    return x, y


def cell_at(page: Page, panel: int, x: float, y: float) -> tuple[int, int]:
    box = canvas(page, panel).bounding_box()
    assert box is not None
    r0, r1, c0, c1 = window_of(page)
    return (
        int(r0 + (y - box["y"]) / box["height"] * (r1 - r0)),
        int(c0 + (x - box["x"]) / box["width"] * (c1 - c0)),
    )


def pixel(page: Page, panel: int, row: int, col: int) -> list[int]:
    """[red, green, blue, alpha] drawn in the middle of a cell."""
    r0, r1, c0, c1 = window_of(page)
    return canvas(page, panel).evaluate(
        "(c, [y, x]) => [...c.getContext('2d').getImageData(x * c.width, y * c.height, 1, 1).data]",
        [(row + 0.5 - r0) / (r1 - r0), (col + 0.5 - c0) / (c1 - c0)],
    )


def zoom(page: Page, panel: int, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Drag from one cell to another and wait for the exact window."""
    page.mouse.move(*point_of_cell(page, panel, *start))
    page.mouse.down()
    page.mouse.move(*point_of_cell(page, panel, *end), steps=3)
    page.mouse.up()
    expect(page.get_by_test_id("map-reset-zoom")).to_be_visible()
    r0, r1, c0, c1 = window_of(page)
    expect(page.get_by_text(f"window (({r0}, {r1}), ({c0}, {c1}))")).to_be_visible()
    expect(page.get_by_test_id("map-note")).not_to_contain_text("reduced")


@pytest.mark.browser
def test_a_click_tells_python_the_cell_in_coordinates_of_the_full_map(app: Page) -> None:
    box = canvas(app, 1).bounding_box()
    assert box is not None
    x, y = round(box["x"] + 0.2 * box["width"]) + 0.5, round(box["y"] + 0.8 * box["height"]) + 0.5
    row, col = cell_at(app, 1, x, y)
    app.mouse.click(x, y)
    expect(app.get_by_text(f"picked ({row}, {col})")).to_be_visible()
    expect(app.get_by_text("same True")).to_be_visible()
    expect(viewer(app)).to_have_attribute("data-selected-row", str(row))
    expect(viewer(app)).to_have_attribute("data-selected-col", str(col))
    assert abs(row - 0.8 * SIZE) < 8
    assert abs(col - 0.2 * SIZE) < 8


@pytest.mark.browser
def test_signs_are_drawn_in_different_colours_and_absent_cells_in_none(app: Page) -> None:
    app.wait_for_timeout(100)  # one frame
    positive, negative = pixel(app, 0, 800, 100), pixel(app, 1, 800, 100)
    assert positive[0] > positive[2] + 40  # red over blue
    assert negative[2] > negative[0] + 40
    assert pixel(app, 0, 100, 800)[3] == 0  # transparent: the hatching shows


@pytest.mark.browser
def test_drag_zooms_to_a_window_whose_cells_read_exactly(app: Page) -> None:
    zoom(app, 0, (600, 300), (640, 350))
    r0, r1, c0, c1 = window_of(app)
    assert abs(r0 - 600) <= 4
    assert abs(r1 - 640) <= 4
    assert abs(c0 - 300) <= 4
    assert abs(c1 - 350) <= 4
    app.mouse.move(*point_of_cell(app, 2, 611, 333))
    expect(app.get_by_test_id("map-readout")).to_contain_text("query 611 “<b>t</b>611”, key 333 “<b>t</b>333”")
    for panel in range(3):
        shown = float(app.get_by_test_id("map-value").nth(panel).get_attribute("data-value") or "nan")
        assert shown == big_map(panel)[611, 333]  # a window this small is sent exactly
    expect(app.get_by_test_id("map-value").first).not_to_contain_text("≈")


@pytest.mark.browser
def test_a_large_map_reads_roughly_and_says_so(app: Page) -> None:
    app.mouse.move(*point_of_cell(app, 2, 611, 333))
    shown = float(app.get_by_test_id("map-value").nth(2).get_attribute("data-value") or "nan")
    assert shown == pytest.approx(2, abs=0.5 + 4 / 254)
    expect(app.get_by_test_id("map-value").nth(2)).to_contain_text("≈")


@pytest.mark.browser
def test_zoom_is_kept_by_reruns_and_ended_by_a_double_click(app: Page) -> None:
    zoom(app, 0, (600, 300), (640, 350))
    zoomed = window_of(app)
    app.get_by_role("button", name="rerun").click()
    app.wait_for_timeout(500)
    assert window_of(app) == zoomed
    app.mouse.dblclick(*point_of_cell(app, 0, 620, 320))
    expect(app.get_by_text(f"window ((0, {SIZE}), (0, {SIZE}))")).to_be_visible()
    expect(app.get_by_test_id("map-reset-zoom")).to_be_hidden()
    expect(app.get_by_text("picked None")).to_be_visible()  # the first of the two clicks selected nothing


@pytest.mark.browser
def test_absent_cells_say_so_and_labels_are_text(app: Page) -> None:
    app.mouse.move(*point_of_cell(app, 0, 100, 900))
    expect(app.get_by_test_id("map-value").first).to_contain_text("not visible to this query")
    assert app.get_by_test_id("map-row-axis").first.inner_text().startswith("0 <b>t</b>0")
    assert viewer(app).locator("b").count() == 0


@pytest.mark.browser
def test_arrow_keys_move_the_selection_and_escape_ends_the_zoom(app: Page) -> None:
    zoom(app, 0, (600, 300), (640, 350))
    app.mouse.click(*point_of_cell(app, 0, 610, 310))
    expect(app.get_by_text("picked (610, 310)")).to_be_visible()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "ArrowLeft"):
        app.keyboard.press(key)
    expect(app.get_by_text("picked (611, 309)")).to_be_visible()
    app.keyboard.press("Escape")
    expect(app.get_by_text(f"window ((0, {SIZE}), (0, {SIZE}))")).to_be_visible()


@pytest.mark.browser
def test_new_data_reuse_the_canvases(app: Page) -> None:
    canvas(app, 0).evaluate("c => { c.mark = 'kept'; }")
    zoom(app, 0, (600, 300), (640, 350))
    assert canvas(app, 0).evaluate("c => c.mark") == "kept"


@pytest.mark.browser
def test_a_viewer_that_was_removed_comes_back_once(app: Page) -> None:
    for _ in range(2):
        app.get_by_text("show", exact=True).click()
        expect(viewer(app)).to_have_count(0)
        app.get_by_text("show", exact=True).click()
        expect(viewer(app)).to_have_attribute("data-state", "ready")
    expect(viewer(app)).to_have_count(1)


@pytest.mark.browser
def test_a_change_of_theme_repaints_the_maps(app: Page) -> None:
    light = pixel(app, 0, 800, 100)
    app.emulate_media(color_scheme="dark")
    expect(viewer(app)).to_have_attribute("data-theme", "dark")
    app.wait_for_timeout(100)  # one frame
    assert pixel(app, 0, 800, 100) != light


@pytest.mark.browser
def test_a_standalone_document_draws_reads_and_zooms_without_a_server(page: Page, tmp_path: Path) -> None:
    values = causal_noise(6, 9)
    view = MapView(
        [Panel("scores", values, unit="nats"), Panel("weights", abs(values), signed=False)],
        Labels("query", list("abcdef")),
        Labels("key"),
        selected=(5, 1),
    )
    document = tmp_path / "map.html"
    document.write_text(standalone_html(view), encoding="utf-8")
    page.goto(document.as_uri())
    expect(viewer(page)).to_have_attribute("data-state", "ready")
    page.mouse.move(*point_of_cell(page, 1, 4, 2))
    readout = page.get_by_test_id("map-readout")
    expect(readout).to_contain_text("query 4 “e”, key 2")
    shown = [float(chip.get_attribute("data-value") or "nan") for chip in page.get_by_test_id("map-value").all()]
    assert shown == pytest.approx([values[4, 2], abs(values[4, 2])], abs=max_abs(values) / 254 + 1e-6)
    page.mouse.down()
    page.mouse.move(*point_of_cell(page, 1, 5, 4), steps=3)
    page.mouse.up()
    assert window_of(page) == (4, 6, 2, 5)
    page.get_by_test_id("map-reset-zoom").click()
    assert window_of(page) == (0, 6, 0, 9)


@pytest.mark.browser
def test_one_script_draws_all_fragments_of_a_page(page: Page) -> None:
    views = [view_of(noise(rows, 7)) for rows in (3, 4)]
    page.set_content("".join(map(fragment_html, views)) + script_html())
    expect(viewer(page)).to_have_count(2)
    for index in range(2):
        expect(viewer(page).nth(index)).to_have_attribute("data-state", "ready")
