"""The Probes page: studies, stores and small studies show the library's numbers, for good and bad input, and in a
real browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from playwright.sync_api import expect
from streamlit.testing.v1 import AppTest

from probes.store import Store
from probes.study import Study, findings, read_results, run_study
from tests.browser_tools import ROOT, open_browser, serve_streamlit, settled
from tests.study_runs import PLANTED, fields, planted_corpus
from workbench.access import STORES
from workbench.jobs import Job
from workbench.pages.study_section import ANOTHER
from workbench.small_studies import SmallStudy, studies_in
from workbench.viewer.view import visible_token

PATIENCE = 90_000  # ms; a busy machine is slow, and no test here measures speed
TEXT = "\n\n".join(f"Mary has an apple. John has a violin. {name} has a bus." for name in ("Paul", "Rose", "Tom") * 3)


@pytest.fixture(autouse=True)
def folder_of_the_tests(monkeypatch, tmp_path_factory):
    """Everything that these tests write is where the page may look."""
    monkeypatch.setenv(STORES, str(tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished study of a tiny model, with both analyses."""
    folder = tmp_path_factory.mktemp("page")
    asked = fields(*planted_corpus(folder), analyses=["probing", "dynamic_share"], question="Is it *there*?")
    run_study(Study.from_dict(asked), folder / "study")
    return folder / "study"


def opened(section: str = "a study") -> AppTest:
    # the page imports the whole model stack, so the first run is slow
    page = AppTest.from_file(str(ROOT / "workbench/pages/probing.py"), default_timeout=120).run()
    page.session_state["probes section"] = section
    return page.run()


def study_in(folder: Path | str) -> AppTest:
    page = opened()
    if page.selectbox(key="study chosen").value != ANOTHER:
        page.selectbox(key="study chosen").set_value(ANOTHER).run()
    return page.text_input(key="study folder").set_value(str(folder)).run()


def linked(parameters: dict[str, str]) -> AppTest:
    page = AppTest.from_file(str(ROOT / "workbench/pages/probing.py"), default_timeout=120)
    for name, value in parameters.items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    return page


def plain_text(page: AppTest) -> str:
    """All that stands in Markdown on the page, without its escapes."""
    return unescaped("\n".join(text.value for text in page.markdown))


def unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def plain_error(page: AppTest) -> str:
    return unescaped(page.error[0].value)


# -- a study -----------------------------------------------------------------------------------------


def test_a_study_is_shown_with_its_words_figures_and_table(finished):
    page = study_in(finished)
    assert not page.exception
    assert not page.error
    study, tables, _ = read_results(finished)
    text = plain_text(page)
    assert study.title in text
    assert study.question in text
    for one in findings(tables["probing"], study):
        assert one.text in text
    assert text.index("What was found") < text.index("What was not found")
    pd.testing.assert_frame_equal(page.dataframe[0].value, tables["probing"], check_dtype=False)
    assert len(page.get("plotly_chart")) == 2


def test_every_figure_and_table_of_a_study_can_be_looked_at(finished):
    page = study_in(finished)
    chooser = page.selectbox(key="study figures of")
    assert chooser.options == [
        "mark, linear probe", "noise, linear probe", "Dynamic share by mark", "Dynamic share by noise",
    ]  # fmt: skip
    for title in chooser.options:
        page.selectbox(key="study figures of").set_value(title).run()
        assert not page.exception, title
        assert page.get("plotly_chart")
    page.session_state["study table of"] = "dynamic_share"
    page.run()
    truth = read_results(finished)[1]["dynamic_share"]
    pd.testing.assert_frame_equal(page.dataframe[0].value, truth, check_dtype=False)
    link = dict(page.query_params)
    assert (link["figures"], link["table"]) == (chooser.options[-1], "dynamic_share")
    again = linked(link)
    assert again.selectbox(key="study figures of").value == chooser.options[-1]
    pd.testing.assert_frame_equal(again.dataframe[0].value, truth, check_dtype=False)
    wrong = linked(link | {"table": "none", "figures": "none"})
    assert wrong.selectbox(key="study figures of").value == chooser.options[0]
    assert len(wrong.dataframe[0].value) == len(read_results(finished)[1]["probing"])


def test_a_link_says_what_is_looked_at_of_a_small_study(form):
    form.checkbox(key="small shares").set_value(True)
    form.multiselect(key="small features demo/dcformer").set_value(["query_part@3.post"])
    small_but_features(form)
    page = finish(form)
    title = page.selectbox(key="small figures of").options[-1]
    page.selectbox(key="small figures of").set_value(title).run()
    page.session_state["small table of"] = "dynamic_share"
    page.run()
    assert not page.exception
    assert page.query_params["small-figures"] == title
    assert page.query_params["small-table"] == "dynamic_share"


def test_a_study_that_was_run_again_is_read_again(finished, tmp_path):
    copied = tmp_path / "study"
    copied.mkdir()
    for path in finished.iterdir():
        if path.is_file():
            (copied / path.name).write_bytes(path.read_bytes())
    page = study_in(copied)
    config = json.loads((copied / "config.json").read_text())
    config["study"]["title"] = "A new title"
    (copied / "config.json").write_text(json.dumps(config))
    assert "A new title" in plain_text(page.run())


def test_nothing_named_is_no_error():
    page = study_in("")
    assert "Type the folder of a finished study" in page.info[0].value
    assert not page.error
    assert not page.exception


@pytest.mark.parametrize("content", [None, "{", "[]", '{"study": {"title": 3}, "finished": true}'])
def test_a_folder_without_a_study_is_answered_with_one_sentence(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    page = study_in(tmp_path)
    assert len(page.error) == 1
    assert tmp_path.name in plain_error(page)
    assert str(tmp_path) not in plain_error(page)
    assert not page.exception
    assert not page.dataframe


def test_an_unfinished_study_is_said_so_and_nothing_is_written(tmp_path, finished):
    config = json.loads((finished / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"finished": False}))
    page = study_in(tmp_path)
    assert "is not finished" in page.error[0].value
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_finished_studies_in_a_folder_are_found_and_nothing_else(finished, tmp_path):
    for name in ("shipped/results", "plain", "unfinished", "model"):
        (tmp_path / name).mkdir(parents=True)
    whole = (finished / "config.json").read_text()
    for name in ("shipped/results", "plain"):
        (tmp_path / name / "config.json").write_text(whole)
    (tmp_path / "unfinished" / "config.json").write_text(json.dumps(json.loads(whole) | {"finished": False}))
    (tmp_path / "model" / "config.json").write_text('{"model_type": "dcformer"}')
    assert studies_in(tmp_path, tmp_path / "nowhere") == {
        "plain": tmp_path / "plain", "shipped": tmp_path / "shipped" / "results",
    }  # fmt: skip


# -- a store -----------------------------------------------------------------------------------------


def store_in(folder: Path | str) -> AppTest:
    return opened("a store").text_input(key="store folder").set_value(str(folder)).run()


def test_a_store_is_shown_with_what_it_holds(finished):
    store = Store.open(finished / "stores" / "tiny")
    page = store_in(store.folder)
    assert not page.exception
    assert not page.error
    numbers = {metric.label: metric.value for metric in page.metric}
    assert numbers["tokens kept"] == f"{len(store):,}"
    assert numbers["documents"] == str(store.manifest.corpus["documents"])
    features, labels, tokens = (table.value for table in page.dataframe)
    assert features.name.tolist() == list(store.features)
    assert labels.name.tolist() == list(store.labels)
    truth = store.table(rows=slice(0, 50))
    assert tokens.token_id.tolist() == truth.token_id.tolist()
    assert tokens.token.tolist() == [visible_token(token) for token in truth.token]
    assert tokens.mark.tolist() == truth.mark.tolist()


def test_no_store_is_one_sentence(tmp_path):
    assert "Type the folder of a store" in opened("a store").info[0].value
    page = store_in(tmp_path / "nowhere")
    assert "is no directory within the folders of stores" in plain_error(page)
    assert "is no store" in plain_error(store_in(tmp_path))
    assert not page.exception


def test_a_store_with_a_missing_file_is_named(finished, tmp_path):
    (tmp_path / "manifest.json").write_bytes((finished / "stores" / "tiny" / "manifest.json").read_bytes())
    page = store_in(tmp_path)
    assert "shard-00000" in plain_error(page)
    assert not page.exception


# -- a small study -----------------------------------------------------------------------------------


@pytest.fixture
def form() -> AppTest:
    return opened("run a small study")


def small(form: AppTest) -> AppTest:
    """Ask for so little that it takes seconds."""
    form.multiselect(key="small features demo/dcformer").set_value(["query_gate@3.post"])
    return small_but_features(form)


def small_but_features(form: AppTest) -> AppTest:
    form.multiselect(key="small families").set_value(["antonym"])
    form.multiselect(key="small labels in-context task rows").set_value(["token_class"])
    form.multiselect(key="small probes").set_value(["ridge"])
    form.number_input(key="small kept").set_value(15)
    return form.run()


def finish(form: AppTest) -> AppTest:
    form.button(key="run study").click().run()
    assert not form.error
    job: Job[Path] = form.session_state["small study"].job
    job.wait(120)
    assert not job.running
    return form.run()


def test_a_small_study_is_the_librarys_and_its_file_makes_the_same(form, tmp_path):
    small(form)
    told = yaml.safe_load(form.code[0].value)
    page = finish(form)
    assert not page.exception
    assert not page.error
    truth = run_study(Study.from_dict(told), tmp_path / "study")["probing"]
    pd.testing.assert_frame_equal(page.dataframe[0].value, truth, check_dtype=False)
    assert "token_class" in plain_text(page)


def test_pasted_text_is_a_corpus(form):
    form.selectbox(key="small corpus").set_value("pasted text").run()
    form.text_area(key="small text").set_value(TEXT)
    form.multiselect(key="small features demo/dcformer").set_value(["query_part@0.post"])
    form.multiselect(key="small labels pasted text").set_value(["punctuation"])
    form.multiselect(key="small probes").set_value(["ridge"])
    form.checkbox(key="small shares").check().run()
    page = finish(form)
    assert not page.exception
    assert not page.error
    assert page.dataframe[0].value.documents.max() == 9


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("small features demo/dcformer", [], "No features were chosen"),
        ("small labels in-context task rows", [], "No labels were chosen"),
        ("small probes", [], "No probes were chosen"),
    ],
)
def test_what_is_missing_is_said_before_anything_runs(form, key, value, message):
    form.multiselect(key=key).set_value(value).run()
    form.button(key="run study").click().run()
    assert message in form.error[0].value
    assert not form.exception
    assert "small study" not in form.session_state


def test_no_text_is_said_so(form):
    form.selectbox(key="small corpus").set_value("pasted text").run()
    form.button(key="run study").click().run()
    assert "Paste a text" in form.error[0].value
    assert not form.exception


def test_too_large_a_study_is_refused_with_what_to_do(form):
    features = form.multiselect(key="small features demo/dcformer")
    features.set_value(features.options[:40]).run()
    form.button(key="run study").click().run()
    assert "Choose fewer features, labels or tokens" in form.error[0].value
    assert not form.exception


def test_too_few_documents_are_an_error_of_the_study_and_the_next_one_works(form):
    form.selectbox(key="small corpus").set_value("pasted text").run()
    form.text_area(key="small text").set_value("One paragraph alone.").run()
    form.button(key="run study").click().run()
    form.session_state["small study"].job.wait(120)
    form.run()
    assert "documents" in form.error[0].value
    assert not form.exception
    form.selectbox(key="small corpus").set_value("in-context task rows").run()
    assert not finish(small(form)).exception
    assert len(form.dataframe)


def test_a_cancelled_study_goes_on(form):
    small(form)
    form.multiselect(key="small features demo/dcformer").set_value(["query_gate@1.post", "query_gate@3.post"]).run()
    form.button(key="run study").click().run()
    job = form.session_state["small study"].job
    form.button(key="cancel study").click().run()
    job.wait(120)
    form.run()
    assert "Cancelled" in form.warning[0].value
    page = finish(form)
    assert not page.exception
    assert set(page.dataframe[0].value.layer) == {1, 3}


def test_the_plain_model_has_features_too(form):
    form.selectbox(key="small model").set_value("demo/transformer").run()
    assert not form.exception
    assert form.multiselect(key="small features demo/transformer").value == ["residual@1"]
    assert form.checkbox(key="small shares").disabled


def test_the_time_grows_with_what_is_asked():
    one = SmallStudy("demo/dcformer", (PLANTED,), ("casing",), ("linear",))
    more = SmallStudy("demo/dcformer", (PLANTED, "residual@2"), ("casing", "punctuation"), ("linear", "ridge"), rows=3)
    assert 0 < one.seconds() < more.seconds()


def test_the_prompt_of_other_pages_stays(tmp_path):
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120).run()
    app.text_area(key="prompt").set_value(" Mary has an apple").run()
    app.switch_page("workbench/pages/probing.py").run()
    assert not app.exception
    app.switch_page("workbench/pages/explore.py").run()
    assert app.text_area(key="prompt").value == " Mary has an apple"


# -- in a real browser -------------------------------------------------------------------------------


@pytest.mark.browser
def test_a_person_opens_a_study_a_store_and_runs_a_small_study(tmp_path, finished):
    with serve_streamlit(ROOT / "app.py", log=tmp_path / "app.log") as url, open_browser() as browser:
        tab = browser.new_page(viewport={"width": 1280, "height": 1000})
        tab.set_default_timeout(PATIENCE)
        tab.goto(url)
        tab.get_by_role("link", name="Probes").click()
        expect(tab.get_by_text("What can be read from head mixing")).to_be_visible(timeout=PATIENCE)
        settled(tab)
        if not tab.get_by_label("Folder that a study wrote").count():
            tab.get_by_role("combobox", name="Study").click()
            tab.get_by_role("option", name=ANOTHER).click()
        box = tab.get_by_label("Folder that a study wrote")
        box.fill(str(finished))
        box.press("Enter")
        expect(tab.get_by_text("mark is readable from query_part")).to_be_visible(timeout=PATIENCE)
        expect(tab.locator(".js-plotly-plot .main-svg").first).to_be_visible(timeout=PATIENCE)
        settled(tab)
        with tab.expect_download() as download:
            tab.get_by_role("button", name="Download report").click()
        assert "What the tiny model exposes" in download.value.path().read_text(encoding="utf-8")
        tab.get_by_text("a store", exact=True).click()
        box = tab.get_by_label("Folder that a harvest wrote")
        box.fill(str(finished / "stores" / "tiny"))
        box.press("Enter")
        expect(tab.get_by_text("Features of every token")).to_be_visible(timeout=PATIENCE)
        tab.get_by_text("run a small study", exact=True).click()
        tab.get_by_role("button", name="Run").click()
        expect(tab.get_by_role("button", name="Cancel")).to_be_visible(timeout=PATIENCE)
        expect(tab.get_by_text(re.compile("task_role .* from key_part"))).to_be_visible(timeout=PATIENCE)
        expect(tab.get_by_role("button", name="Run")).to_be_enabled(timeout=PATIENCE)
        width = tab.evaluate("document.documentElement.scrollWidth")
        assert width <= 1280  # nothing is cut off at the side
        tab.close()
