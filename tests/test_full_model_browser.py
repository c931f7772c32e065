"""The Full model page in a real browser, as a person uses it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from model import Engine, capture, load_model, save_model
from tests.browser_tools import ROOT, serve_streamlit
from workbench.access import MODELS

PROMPT = "< Mary has an apple. John has a violin. >. Who has"
PATIENCE = 180_000  # ms; a busy machine is slow, and no test here measures speed


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("models")
    save_model(load_model("demo/dcformer"), place / "mine")
    return place


@pytest.fixture(scope="module")
def address(tmp_path_factory, models):
    log = tmp_path_factory.mktemp("app") / "app.log"
    with serve_streamlit(ROOT / "app.py", log=log, environment={MODELS: str(models)}) as url:
        yield url
    assert "Traceback" not in log.read_text("utf-8")


@pytest.fixture
def page(browser, address):
    tab = browser.new_page(viewport={"width": 1280, "height": 1000})
    tab.set_default_timeout(PATIENCE)
    tab.goto(f"{address}/full-model?model=mine")
    tab.get_by_text("Load a full model").wait_for()
    yield tab
    tab.close()


def load_in(page: Page) -> None:
    """Press Load, unless an earlier test did."""
    ready = page.get_by_role("button", name="Generate", exact=True)
    load = page.get_by_role("button", name="Load", exact=True)
    expect(ready.or_(load)).to_be_visible(timeout=PATIENCE)
    if load.is_visible():
        load.click()
    ready.wait_for()


def ask_for(page: Page, tokens: int) -> None:
    box = page.get_by_label("New tokens")
    box.fill(str(tokens))
    box.press("Enter")
    expect(page).to_have_url(re.compile(f"tokens={tokens}"), timeout=PATIENCE)
    page.get_by_role("button", name="Generate", exact=True).click()


def model_layers(models: Path) -> int:
    return load_model(models / "mine").cfg.n_layers


def metric(page: Page, name: str) -> str:
    return page.get_by_test_id("stMetric").filter(has_text=name).get_by_test_id("stMetricValue").inner_text()


@pytest.mark.browser
def test_a_person_loads_watches_stops_and_follows_a_token_to_explore(page, models):
    model = load_model(models / "mine")
    prompt = page.get_by_label("Prompt", exact=True)
    expect(page.get_by_text("It fits:")).to_be_visible(timeout=PATIENCE)  # before anything is loaded
    load_in(page)
    prompt.fill(PROMPT)
    prompt.press("Control+Enter")
    ask_for(page, 900)
    chips = page.get_by_test_id("token-strip").locator("button")
    expect(chips.nth(3)).to_be_visible(timeout=PATIENCE)
    seen = chips.count()
    expect(chips.nth(seen + 3)).to_be_visible(timeout=PATIENCE)  # they come while one looks
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_text("stopped after")).to_be_visible(timeout=PATIENCE)
    count = int(re.search(r"stopped after (\d+) tokens", page.inner_text("body"))[1])
    assert seen < count < 900
    assert metric(page, "new tokens") == f"{count} of 900"
    text = page.locator(".st-key-generated-text code").inner_text()
    assert text.rstrip() == Engine(model).generate(PROMPT, count).rstrip()
    chips.nth(2).click()
    expect(page.get_by_text("How the heads are composed")).to_be_visible(timeout=PATIENCE)
    ids = model.to_tokens(PROMPT)[0].tolist()
    written = Engine(model).generate(model.to_tokens(PROMPT), 3)[0].tolist()
    expect(chips).to_have_count(len(ids) + 3, timeout=PATIENCE)
    expect(chips.nth(len(ids) + 2)).to_have_class(re.compile("query"), timeout=PATIENCE)
    assert page.get_by_label("Prompt", exact=True).input_value() == str(model.to_string(written))


@pytest.mark.browser
def test_a_click_on_a_column_shows_that_token_and_the_url_keeps_it(page, models):
    load_in(page)
    ask_for(page, 8)
    expect(page.get_by_text("ended ·")).to_be_visible(timeout=PATIENCE)
    canvas = page.locator(".st-key-full-growth").get_by_test_id("map-canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box["width"] / 8 > 1.2 * box["height"] / model_layers(models)  # stretched: the cells fill the width
    canvas.click(position={"x": box["width"] * 2.5 / 8, "y": box["height"] * 0.4})
    expect(page.get_by_text(re.compile(r"new token 2, position"))).to_be_visible(timeout=PATIENCE)
    expect(page).to_have_url(re.compile("token=2"), timeout=PATIENCE)


@pytest.mark.browser
def test_text_capture_and_tables_are_downloaded(page, models):
    load_in(page)
    ask_for(page, 6)
    expect(page.get_by_text("ended ·")).to_be_visible(timeout=PATIENCE)
    model = load_model(models / "mine")
    prompt = page.get_by_label("Prompt", exact=True).input_value()
    ids = Engine(model).generate(model.to_tokens(prompt), 6)

    def downloaded(press) -> bytes:
        with page.expect_download(timeout=PATIENCE) as waited:
            press()
        return Path(waited.value.path()).read_bytes()

    text = downloaded(page.get_by_role("button", name="Text", exact=True).click)
    assert text.decode() == Engine(model).generate(prompt, 6)
    npz = np.load(io.BytesIO(downloaded(page.get_by_role("button", name="Capture (NPZ)").click)))
    assert npz["tokens"].tolist() == ids[0].tolist()
    run = capture(model, ids)
    np.testing.assert_allclose(npz["blocks.1.post.query_up"], run.layers[1].post.query_up[0].numpy(), atol=1e-4)
    page.locator(".st-key-full-token-map-below-maps").get_by_role("button", name="Save").click()
    rows = downloaded(page.get_by_role("button", name="CSV").click).decode()
    truth = run.mixing(3, "pre").query_distances_from_identity()[-1]
    assert any(abs(float(value) - float(truth[2])) < 1e-4 for value in re.findall(r"\d+\.\d+", rows))


@pytest.mark.browser
def test_two_sessions_generate_side_by_side(browser, address, models):
    model = load_model(models / "mine")
    prompts = ["Mary has an apple. John", "Paul has a bus. Who has a bus?"]
    tabs = [browser.new_page() for _ in prompts]
    for tab, prompt in zip(tabs, prompts, strict=True):
        tab.set_default_timeout(PATIENCE)
        tab.goto(f"{address}/full-model?model=mine&prompt={prompt.replace(' ', '+').replace('?', '%3F')}&tokens=40")
        load_in(tab)
    for tab in tabs:
        tab.get_by_role("button", name="Generate", exact=True).click()
    for tab, prompt in zip(tabs, prompts, strict=True):
        expect(tab.get_by_text("ended ·")).to_be_visible(timeout=PATIENCE)
        text = tab.locator(".st-key-generated-text code").inner_text()
        assert text.rstrip() == Engine(model).generate(prompt, 40).rstrip()
        tab.close()


@pytest.mark.browser
def test_unloading_asks_for_loading_again(page):
    load_in(page)
    page.get_by_role("button", name="Unload").first.click()
    expect(page.get_by_text("Load the model first.")).to_be_visible(timeout=PATIENCE)
