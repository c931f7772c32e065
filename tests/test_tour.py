"""The tour of the docs: every stop opens by its link and shows what it should, and the docs show every stop."""

from __future__ import annotations

import io
import re
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from probes.interventions import from_json
from tests.browser_tools import ROOT, open_browser, serve_streamlit
from tests.tour import PICTURES, STOPS, WINDOW, visit

TEXT = (ROOT / "docs" / "tour.md").read_text("utf-8")


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    log = tmp_path_factory.mktemp("tour") / "app.log"
    with serve_streamlit(ROOT / "app.py", log=log) as address, open_browser() as browser:
        yield address, browser.new_page(viewport=WINDOW)


@pytest.mark.browser
@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
def test_a_stop_opens_by_its_link_in_the_browser(tab, stop):
    address, page = tab
    picture = np.asarray(Image.open(io.BytesIO(visit(page, address, stop))).convert("L"))
    assert picture.shape == (WINDOW["height"], WINDOW["width"])
    assert picture[:, 320:].std() > 5  # something is drawn beside the list of pages
    there = {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}
    for name, value in stop.state.items():
        # JSON is written again without what is the default
        assert from_json(there[name]) == from_json(value) if name == "change" else there[name] == value


def test_the_tour_shows_every_stop_and_no_other_picture():
    shown = re.findall(r"\(images/tour/(\w+)\.png\)", TEXT)
    assert shown == [stop.name for stop in STOPS]
    assert sorted(path.stem for path in PICTURES.glob("*.png")) == sorted(shown)


def test_the_links_of_the_tour_are_those_of_its_stops():
    links = [urlsplit(link) for link in re.findall(r"\(http://127\.0\.0\.1:8501(/[^)]*)\)", TEXT)]
    assert [link.path for link in links] == [urlsplit(stop.link).path for stop in STOPS]
    for link, stop in zip(links, STOPS, strict=True):
        assert parse_qs(link.query) == {name: [value] for name, value in stop.state.items()}
