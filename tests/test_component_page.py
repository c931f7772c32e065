"""The component explorer: its numbers are the library's, and a token opens in Explore where it stood."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect
from streamlit.testing.v1 import AppTest

from model import load_model
from probes.components import decompose, participation_ratio, top_tokens
from probes.components.contexts import GAP
from probes.corpora.corpus import Documents
from probes.corpora.task_rows import TaskRows
from probes.harvest import Keep, harvest
from probes.store import Store
from tests.browser_tools import ROOT, open_browser, serve_streamlit
from tests.models import small_model
from tests.study_runs import random_documents
from workbench import session
from workbench.access import STORES
from workbench.figures import component_scores_figure
from workbench.scripts import components_script
from workbench.session import Workbench
from workbench.store_components import (
    ComponentRequest,
    check_token,
    component_features,
    read_components,
    token_place,
)

PATIENCE = 90_000  # ms; a busy machine is slow, and no test here measures speed
PART, DOWN, GATE = "query_part@3.post", "query_down@1.pre", "query_gate@2.pre"


@pytest.fixture(autouse=True)
def folder_of_the_tests(monkeypatch, tmp_path_factory):
    """The page opens stores only within the folders that it was started with."""
    monkeypatch.setenv(STORES, str(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="module")
def model():
    return load_model("demo/dcformer")


def harvested(model, folder: Path, **options) -> Store:
    corpus = TaskRows([2, 20, 60], rows=2, seed=5, split="held_out")
    store = harvest(model, corpus, folder, [PART, DOWN, GATE, "next_token_loss"], [], **options)
    assert store is not None
    return store


@pytest.fixture(scope="module")
def store(model, tmp_path_factory) -> Store:
    return harvested(model, tmp_path_factory.mktemp("components") / "store")


@pytest.fixture(scope="module")
def sampled(model, tmp_path_factory) -> Store:
    """Some tokens of each document alone."""
    return harvested(model, tmp_path_factory.mktemp("components") / "sampled", keep=Keep(per_document=30))


def truth(store: Store, name: str, count: int, method: str):
    values = store.read(name).astype("float64").reshape(len(store), -1)
    return values, decompose(values, count, method, signs="split")


# -- reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pca", "nmf", "kmeans"])
def test_components_are_the_librarys(store, method):
    reading = read_components(ComponentRequest(str(store.folder), PART, method, 5))
    values, found = truth(store, PART, 5, method)
    np.testing.assert_allclose(reading.components.scores, found.scores)
    np.testing.assert_allclose(reading.components.share, found.share)
    assert reading.dimension == pytest.approx(participation_ratio(values))
    assert reading.directions.shape == (5, 8, 8)


def test_split_directions_give_the_signed_features_back(store):
    reading = read_components(ComponentRequest(str(store.folder), PART, "nmf", 12))
    values = store.read(PART).astype("float64")
    rebuilt = np.einsum("tc,cnm->tnm", reading.components.scores, reading.directions)
    assert np.linalg.norm(rebuilt - values) < 0.5 * np.linalg.norm(values)


def test_only_features_of_several_numbers_have_components(store):
    names = component_features(store)
    assert {PART, DOWN, GATE} <= set(names)
    assert "next_token_loss" not in names
    reading = read_components(ComponentRequest(str(store.folder), DOWN, count=3))
    assert reading.directions.shape == (3, *store.features[DOWN].shape)


def test_no_more_tokens_are_read_than_asked_for(store):
    reading = read_components(ComponentRequest(str(store.folder), PART, count=2, tokens=123))
    assert len(reading.tokens) == len(reading.components.scores) == 123
    assert reading.top(count=3)["index"].max() < 123


def test_missing_tokens_are_marked_and_neighbours_are_not(sampled):
    reading = read_components(ComponentRequest(str(sampled.folder), PART, count=2))
    table, top = reading.tokens, reading.top()
    for row in top.itertuples():
        own = table[table.document == row.document]
        at = own.index.get_loc(row.index)
        expected, place = "", own.position.iloc[at]
        for before in range(at - 1, max(-1, at - 13), -1):
            gap = GAP if own.position.iloc[before] + 1 != place else ""
            expected, place = own.token.iloc[before] + gap + expected, own.position.iloc[before]
        if at - 12 > 0 and own.position.iloc[at - 13] + 1 != place:
            expected = GAP + expected
        assert row.left == expected
    assert top.left.str.contains(GAP).any()


def test_a_store_written_anew_is_read_anew(model, tmp_path, monkeypatch):
    calls = []
    read = session.read_components
    monkeypatch.setattr(session, "read_components", lambda asked: calls.append(asked) or read(asked))
    bench, asked = Workbench(), ComponentRequest(str(tmp_path / "store"), GATE, count=2)
    harvested(model, tmp_path / "store")
    first = bench.components(asked)
    assert bench.components(asked) is first
    assert len(calls) == 1
    for path in (tmp_path / "store").iterdir():
        path.unlink()
    harvested(model, tmp_path / "store", keep=Keep(every=2))
    assert len(bench.components(asked).tokens) < len(first.tokens)


# -- where a token stood -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["store", "sampled"])
def test_a_token_of_a_task_row_is_found_in_its_whole_text(request, model, kind):
    kept = request.getfixturevalue(kind)
    table = kept.table(["document", "position", "piece", "context_position", "token_id", "token"])
    for index in range(0, len(kept), 41):
        at = token_place(kept, table, index)
        assert at.whole
        query = check_token(model, at, int(table.token_id.iloc[index]))
        assert query == table.context_position.iloc[index]
        assert int(model.to_tokens(at.text)[0][query]) == table.token_id.iloc[index]


def test_a_token_of_another_corpus_is_found_among_what_was_kept_around_it(tmp_path, model):
    path = tmp_path / "text.txt"
    path.write_text(" Mary has an apple. John has a violin. Paul has a bus.")
    kept = harvest(model, path, tmp_path / "store", [GATE], [], keep=Keep(every=1))
    table = kept.table(["document", "position", "piece", "context_position", "token_id", "token"])
    whole = token_place(kept, table, 6)
    assert whole == (path.read_text(), 6, True)
    holes = table.drop(index=[3, 9]).reset_index(drop=True)
    part = token_place(kept, holes, 5)  # the token at position 6
    assert part.text == "".join(table.token[4:9])
    assert (part.position, part.whole) == (2, False)


def test_a_token_that_reads_otherwise_is_refused(model, store):
    table = store.table(["document", "position", "piece", "context_position", "token_id", "token"])
    at = token_place(store, table, 9)
    with pytest.raises(ValueError, match="read otherwise as a text"):
        check_token(model, at, int(table.token_id.iloc[9]) + 1)


# -- on the page -------------------------------------------------------------------------------------


def opened(folder: Path | str, **parameters: str) -> AppTest:
    page = AppTest.from_file(str(ROOT / "workbench/pages/probing.py"), default_timeout=120)
    for name, value in {"section": "components", "store": str(folder), **parameters}.items():
        page.query_params[name] = value
    return page.run()


def test_a_link_opens_a_component_with_the_librarys_numbers(store):
    page = opened(store.folder, feature="query_part", place="3.post", method="kmeans", components="4", component="2")
    assert not page.exception
    assert not page.error
    _, found = truth(store, PART, 4, "kmeans")
    listed, tokens = (table.value for table in page.dataframe)
    assert listed.share.tolist() == pytest.approx(found.share.tolist())
    names = store.table(["document", "position", "token"])
    top = top_tokens(found, names.token.astype(str).tolist(), names.document, window=12)
    own = top[top.component == 2]
    assert tokens.score.tolist() == pytest.approx(own.score.tolist())
    assert tokens.document.tolist() == own.document.tolist()
    assert any("Component 2" in text.value for text in page.markdown)
    asked = ComponentRequest(str(store.folder), PART, "kmeans", 4)
    assert components_script(asked).strip() in [code.value for code in page.code]


def test_the_copied_script_gives_the_same_numbers_in_a_fresh_process(store):
    asked = ComponentRequest(str(store.folder), PART, "pca", 3)
    done = subprocess.run(
        [sys.executable, "-c", components_script(asked)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    numbers, reading = json.loads(done.stdout.splitlines()[-1]), read_components(asked)
    assert numbers["share"] == pytest.approx(reading.components.share.tolist())
    assert numbers["dimension"] == pytest.approx(reading.dimension)
    top = reading.top()
    assert [one["score"] for one in numbers["top"]] == pytest.approx(top.score.tolist())
    assert [one["left"] for one in numbers["top"]] == top.left.tolist()


def test_what_is_not_square_has_no_direction_drawn(store):
    square = opened(store.folder, feature="query_part", place="3.post")
    other = opened(store.folder, feature="query_gate", place="2.pre")
    assert len(square.get("plotly_chart")) == 2
    assert len(other.get("plotly_chart")) == 1


def test_another_store_starts_at_its_first_feature(store, sampled):
    page = opened(store.folder, feature="nothing", place="9.pre")
    assert not page.exception
    assert page.selectbox(key="component kind").value in {"query_part", "query_down", "query_gate", "query_up"}
    page.text_input(key="store folder").set_value(str(sampled.folder)).run()
    assert not page.exception
    assert any(f"each of {len(sampled):,} tokens" in caption.value for caption in page.caption)


@pytest.mark.parametrize(
    ("parameters", "where", "message"),
    [
        ({"components": "9", "feature": "query_gate", "place": "2.pre"}, "error", "9 components were asked for"),
        ({"components": "0"}, "warning", "it may be 1 to 64"),
        ({"method": "ica"}, "warning", "it is one of pca, nmf, kmeans"),
    ],
)
def test_what_cannot_be_is_said(store, parameters, where, message):
    page = opened(store.folder, **parameters)
    assert not page.exception
    assert message in getattr(page, where)[0].value.replace("\\", "")


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_a_cluster_without_tokens_is_said_to_be_empty(tmp_path, model):
    harvest(model, Documents([" Mary has an apple"] * 5), tmp_path / "store", [GATE], [], keep=Keep(every=1))
    asked = ComponentRequest(str(tmp_path / "store"), GATE, "kmeans", 7)
    share = read_components(asked).components.share
    empty = int(np.flatnonzero(share == 0)[0])
    page = opened(tmp_path / "store", feature="query_gate", method="kmeans", components="7", component=str(empty))
    assert not page.exception
    assert any("No token belongs to this cluster" in info.value for info in page.info)
    page.session_state["component number"] = int(np.flatnonzero(share)[0])  # and one that has tokens lists them
    page.run()
    assert not page.exception
    assert len(page.dataframe) == 2


def test_no_store_is_one_sentence(tmp_path):
    assert "Type the folder of a store" in opened("").info[0].value
    page = opened(tmp_path / "nowhere")
    assert "is no directory within the folders of stores" in page.error[0].value
    assert not page.exception


def test_a_token_opens_in_explore_and_another_model_is_refused(store, model):
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120).run()
    app.switch_page("workbench/pages/probing.py")
    app.query_params.clear()
    for name, value in {"section": "components", "store": str(store.folder), "feature": "query_part"}.items():
        app.query_params[name] = value
    app.run()
    top = read_components(ComponentRequest(str(store.folder), PART)).top()
    index = int(top[top.component == 0]["index"].iloc[3])
    app.session_state["component token"] = index
    app.run()
    app.selectbox(key="component model").select("demo/transformer").run()
    app.button(key="component explore").click().run()
    assert "was made with" in app.error[0].value
    app.selectbox(key="component model").select("demo/dcformer").run()
    app.button(key="component explore").click().run()
    assert not app.exception
    row = store.table(["context_position", "token_id"], [index])
    selection = app.session_state.selection
    assert (selection.layer, selection.query) == (3, row.context_position[0])
    tokens = model.to_tokens(app.text_area(key="prompt").value)[0]
    assert int(tokens[selection.query]) == row.token_id[0]


def test_a_link_opens_the_token_that_was_selected(store):
    found = {"feature": "query_part", "place": "3.post", "component": "1"}
    top = read_components(ComponentRequest(str(store.folder), PART)).top()
    index = int(top[top.component == 1]["index"].iloc[2])
    page = opened(store.folder, **found)
    assert not [button for button in page.button if button.key == "component explore"]
    page.session_state["component token"] = index  # as a selected row does
    page.run()
    page.selectbox(key="component model").select("demo/transformer").run()
    link = dict(page.query_params)
    assert (link["token"], link["with"]) == (str(index), "demo/transformer")
    again = opened(store.folder, **found, token=str(index), **{"with": "demo/transformer"})
    assert again.button(key="component explore")
    assert again.selectbox(key="component model").value == "demo/transformer"
    wrong = opened(store.folder, **found, token="99999")
    assert not wrong.exception
    assert any("token=" in warning.value.replace("\\", "") for warning in wrong.warning)


def test_tokens_of_a_model_without_a_tokenizer_are_listed(tmp_path):
    harvest(small_model("llama"), random_documents([14, 22, 9]), tmp_path / "ids", ["query_part@1.post"], [])
    page = opened(tmp_path / "ids", components="2")
    assert not page.exception
    assert not page.error


def test_the_histogram_counts_every_token():
    scores = np.random.default_rng(3).normal(size=431)
    (bars,) = component_scores_figure(scores, "weight").data
    assert np.nansum(bars.y) == 431
    assert {colour for x, colour in zip(bars.x, bars.marker.color, strict=True) if x < 0} == {"#2166ac"}


# -- in a real browser -------------------------------------------------------------------------------


@pytest.mark.browser
def test_a_person_finds_a_component_and_follows_a_token(store, model, tmp_path):
    with serve_streamlit(ROOT / "app.py", log=tmp_path / "app.log") as url, open_browser() as browser:
        tab = browser.new_page(viewport={"width": 1280, "height": 1000}, accept_downloads=True)
        tab.set_default_timeout(PATIENCE)
        tab.goto(f"{url}/probes")
        tab.get_by_role("radio", name="components").click()
        box = tab.get_by_label("Folder that a harvest wrote")
        box.fill(str(store.folder))
        box.press("Enter")
        expect(tab.get_by_text("Component 0", exact=True)).to_be_visible(timeout=PATIENCE)
        with tab.expect_download() as saving:
            tab.get_by_role("button", name="Download CSV").last.click()
        saving.value.save_as(tmp_path / "tokens.csv")
        feature = str(pd.Series(component_features(store)).iloc[0])
        top = read_components(ComponentRequest(str(store.folder), feature)).top()
        own = top[top.component == 0]
        assert pd.read_csv(tmp_path / "tokens.csv").score.tolist() == pytest.approx(own.score.tolist())
        tokens = tab.get_by_test_id("stDataFrame").last
        tokens.scroll_into_view_if_needed()
        place = tokens.bounding_box()
        tab.mouse.click(place["x"] + 18, place["y"] + 35 * 2 + 17)  # the box before the second token
        tab.get_by_role("button", name="Open in Explore").click()
        query = int(store.table(["context_position"], [int(own["index"].iloc[1])]).context_position[0])
        expect(tab.get_by_text(f"at query {query} and key").first).to_be_visible(timeout=PATIENCE)
        tab.close()
