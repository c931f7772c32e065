"""The Tasks page: as a script with good and bad input, and in a real browser as a person uses it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import pandas as pd
import pytest
from click.testing import CliRunner
from playwright.sync_api import expect
from streamlit.testing.v1 import AppTest

from model import load_model
from probes.tasks import compare_scores, generate, score
from tests.browser_tools import ROOT, serve_streamlit, settled
from workbench import session, task_rows, task_runs
from workbench.cli import main
from workbench.scripts import tasks_script
from workbench.session import Workbench
from workbench.task_rows import RowName, pair_of, prompt_before
from workbench.task_runs import TaskRequest

NAMES = ("demo/dcformer", "demo/transformer")
RULE_IDS = [20, 21, 72]  # the two models differ on the first two
PATIENCE = 90_000  # ms; a busy machine is slow, and no test here measures speed
SMALL = {"rules": "20,21,72", "seed": "3", "run": "yes"}


@pytest.fixture(scope="module")
def truth():
    rows = generate(RULE_IDS, 1, 3, "held_out")
    return {name: score(load_model(name), rows) for name in NAMES}


def opened(**parameters: str) -> AppTest:
    page = AppTest.from_file(str(ROOT / "workbench/pages/tasks_page.py"), default_timeout=120)
    for name, value in parameters.items():
        page.query_params[name.replace("_", "-")] = value
    return page.run()


def finished(page: AppTest) -> AppTest:
    page.session_state["task run"].job.wait(120)
    page.run()
    assert not page.exception
    return page


def frame(page: AppTest, *columns: str, without: str = "") -> pd.DataFrame:
    """The one table of the page that has some columns."""
    found = [one.value for one in page.dataframe if {*columns} <= {*one.value} and without not in one.value]
    assert len(found) == 1, columns
    return found[0]


def buttons(page: AppTest) -> list[str]:
    return [button.key for button in page.button]


def test_the_page_opens_on_the_bundled_pair_and_runs_nothing_yet():
    page = opened()
    assert not page.exception
    assert page.multiselect(key="task models").value == list(NAMES)
    assert "Run lets each model read every row once" in page.info[0].value
    assert any("74 rows, 444 answers" in caption.value for caption in page.caption)
    assert "task run" not in page.session_state


def test_the_numbers_on_the_page_are_the_librarys(truth):
    page = opened()
    page.multiselect(key="task rules").set_value(RULE_IDS)
    page.number_input(key="task seed").set_value(3).run()
    page.button(key="run tasks").click().run()
    finished(page)
    for by in ("family", "rule", "line"):
        page.session_state["task by"] = by
        page.run()
        shown = frame(page, "exact_match")
        for name in NAMES:
            own = shown[shown.model == name].set_index("group")
            pd.testing.assert_frame_equal(
                own.drop(columns="model"), truth[name].by(by), check_names=False, check_dtype=False
            )
        differences = frame(page, "difference").set_index("group").drop(columns="against")
        expected = compare_scores(truth[NAMES[0]], truth[NAMES[1]], by)
        pd.testing.assert_frame_equal(differences, expected, check_names=False, check_dtype=False)


def test_the_command_gives_the_same_numbers(tmp_path, truth):
    out = tmp_path / "scores.json"
    options = [part for rule in RULE_IDS for part in ("--rule", str(rule))]
    done = CliRunner().invoke(
        main, ["tasks", "--rows-per-rule", "1", "--seed", "3", "--rules", "--out", str(out), *options]
    )
    assert done.exit_code == 0, done.output
    written = json.loads(out.read_text())["scores"]
    expected = truth[NAMES[0]].table(rules=True).to_dict("index")
    assert written == {group: pytest.approx(row, abs=1e-9) for group, row in expected.items()}


@pytest.mark.parametrize("by", ["family", "line"])
def test_the_copied_script_gives_the_same_numbers_in_a_fresh_process(truth, by):
    text = tasks_script(TaskRequest(NAMES, rules=tuple(RULE_IDS), seed=3), by)
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, check=True)
    numbers = json.loads(done.stdout.splitlines()[-1])
    for name in NAMES:
        expected = truth[name].by(by).to_dict("index")
        assert numbers["accuracy"][name] == {group: pytest.approx(row, abs=1e-6) for group, row in expected.items()}
    expected = compare_scores(truth[NAMES[0]], truth[NAMES[1]], by).to_dict("index")
    assert numbers["differences"] == {
        NAMES[1]: {g: pytest.approx(row, abs=1e-9, nan_ok=True) for g, row in expected.items()}
    }


def test_the_page_offers_the_script_of_what_it_shows():
    page = finished(opened(**SMALL, by="rule"))
    asked = page.session_state["task run"].request
    assert tasks_script(asked, "rule").strip() in [code.value for code in page.code]


def test_a_link_restores_what_was_run_and_looked_at(truth):
    line = str(RowName(20, seed=3, line=4))
    page = finished(opened(**SMALL, outcome="models disagree", only_rules="20", line=line))
    asked = page.session_state["task run"].request
    assert asked == TaskRequest(NAMES, rules=tuple(RULE_IDS), seed=3)
    answers = [scores.answers for scores in truth.values()]
    differing = [a for a, b in zip(*answers, strict=True) if a.right != b.right and a.task_id == 20]
    shown = frame(page, "question", "task_id")
    assert len(differing) > 0
    assert shown.answer.tolist() == [one.text for one in differing]
    assert len(frame(page, "question", without="task_id")) == 6
    assert asked.task_rows()[0].text.strip("\n") in [code.value for code in page.code]


def test_other_settings_are_not_said_to_have_been_run():
    page = finished(opened(**SMALL))
    page.number_input(key="task seed").set_value(4).run()
    assert any("settings above have changed" in caption.value for caption in page.caption)
    assert page.query_params == {"rules": "20,21,72", "seed": "4"}
    page.button(key="run tasks").click().run()
    finished(page)
    assert page.query_params["run"] == "yes"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"models": "demo/none"}, "is none of demo/dcformer"),
        ({"families": "antonyms"}, "is none of person and thing"),
        ({"rules": "99"}, "99 is none of 0, 1"),
        ({"rows": "0"}, "it may be 1 to 500"),
        ({"rows": "many"}, "a whole number is needed"),
        ({"split": "dev"}, "it is one of held"),
        ({"run": "1"}, "it is one of no, yes"),
    ],
)
def test_a_wrong_link_is_answered_with_a_message(said, message):
    page = opened(**said)
    assert not page.exception
    assert message in page.warning[0].value.replace("\\", "")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"models": "", "run": "yes"}, "No model was chosen"),
        ({"lines": "2", "run": "yes"}, "demonstrations=2 of lines=2"),
        ({"rows": "500", "run": "yes"}, "20,000 are scored at a time"),
        ({"rules": "60", "families": "antonym", "run": "yes"}, "None of the rules chosen"),
        ({"lines": "40", "demonstrations": "0", "rules": "3", "run": "yes"}, "but the context of this model is 1024"),
    ],
)
def test_what_cannot_be_scored_is_refused_and_the_next_request_works(said, message):
    page = opened(**said)
    if "task run" in page.session_state:
        finished(page)
    assert not page.exception
    assert message in page.error[0].value.replace("\\", "")
    page.multiselect(key="task families").set_value([]).run()  # and all rules are offered
    page.multiselect(key="task models").set_value([NAMES[0]])
    page.multiselect(key="task rules").set_value([5])
    for key, value in {"rows": 1, "lines": 8, "demonstrations": 2}.items():
        page.number_input(key=f"task {key}").set_value(value)
    page.run()
    page.button(key="run tasks").click().run()
    finished(page)
    assert not page.error
    assert len(frame(page, "question", "task_id")) == 6


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("<b>x</b>", "error", "names no task row"),
        (str(RowName(5)), "info", "is not among those scored"),
    ],
)
def test_a_line_that_is_not_there_is_answered_with_a_message(line, kind, message):
    page = finished(opened(**SMALL, line=line))
    assert message in getattr(page, kind)[0].value


def test_an_outcome_of_other_models_gives_way_to_all_answers():
    page = finished(opened(**SMALL, outcome="demo/other wrong"))
    assert page.selectbox(key="task outcome").value == "all"
    assert len(frame(page, "question", "task_id")) == 18


def test_one_model_is_compared_with_none():
    page = finished(opened(**SMALL, models=NAMES[1]))
    assert not any("Do the models differ" in text.value for text in page.markdown)
    assert page.selectbox(key="task outcome").options == ["any outcome", f"{NAMES[1]} wrong", f"{NAMES[1]} right"]


# -- on to other pages -------------------------------------------------------------------------------


def in_app(line: RowName) -> AppTest:
    """The whole app on the Tasks page, a row selected."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120).run()
    app.query_params.clear()
    app.switch_page("workbench/pages/tasks_page.py")
    for name, value in (SMALL | {"line": str(line)}).items():
        app.query_params[name] = value
    return finished(app.run())


def test_a_row_opens_in_explore_where_its_answer_is_predicted():
    name, model = RowName(20, seed=3, line=4), load_model(NAMES[1])
    app = in_app(name)
    app.selectbox(key="task open with").select(NAMES[1]).run()
    app.button(key="task explore").click().run()
    assert app.text_area(key="prompt").value == prompt_before(name.row(), 4, model.tokenizer)
    assert app.selectbox(key="model").value == NAMES[1]
    assert app.session_state.selection.query == len(model.to_tokens(app.text_area(key="prompt").value)[0]) - 1


def test_a_row_opens_in_compare_with_the_next_model():
    app = in_app(RowName(20, seed=3, line=4))
    app.button(key="task compare").click().run()
    assert not app.exception
    assert app.selectbox(key="model").value == NAMES[0]
    assert app.selectbox(key="compare b model").value == NAMES[1]
    assert app.selectbox(key="compare b mixing").value == "as trained"
    tokenizer = load_model(NAMES[0]).tokenizer
    assert app.text_area(key="prompt").value == prompt_before(RowName(20, seed=3).row(), 4, tokenizer)


def test_a_pair_opens_in_the_sweep_of_intervene():
    name, model = RowName(20, seed=3, line=4), load_model(NAMES[0])
    app = in_app(name)
    app.button(key="task intervene").click().run()
    assert not app.exception
    pair = pair_of(name, model.tokenizer)
    assert app.text_area(key="prompt").value == pair.clean.plain_text
    assert "run sweep" in buttons(app)
    assert any(pair.corrupted.lines[-1] in code.value for code in app.code)


# -- the shared workbench ----------------------------------------------------------------------------


def test_rows_are_scored_once_for_each_model(monkeypatch):
    calls = []
    monkeypatch.setattr(session, "score", lambda *given, **options: calls.append(given) or score(*given, **options))
    bench, request = Workbench(), TaskRequest(NAMES, rules=(5,), rows=2)
    first, second = bench.start_tasks(request), bench.start_tasks(request)
    for job in (first, second):
        job.wait(120)
    assert len(calls) == 2
    assert set(bench._task_scores) == {(name, request.made_from) for name in NAMES}
    one = bench.start_tasks(TaskRequest(NAMES[1:], rules=(5,), rows=2))
    one.wait(120)
    assert len(calls) == 2
    assert one.value().scores[NAMES[1]] is first.value().scores[NAMES[1]] is second.value().scores[NAMES[1]]


def test_a_row_is_made_once_however_often_it_is_shown(monkeypatch):
    made = []
    monkeypatch.setattr(task_rows, "generate", lambda *asked, **more: made.append(asked) or generate(*asked, **more))
    page = AppTest.from_file(str(ROOT / "workbench/pages/explore.py"), default_timeout=120)
    page.session_state["sidebar index"] = 4321
    page.run()
    page.run()
    assert not page.exception
    assert [asked[-1] for asked in made] == [4321]
    assert page.sidebar.code[0].value == RowName(0, 4321).row().lines[page.selectbox(key="sidebar line").value]


def test_tables_of_a_result_are_made_once_for_each_grouping(monkeypatch):
    compared = []
    monkeypatch.setattr(
        task_runs, "compare_scores", lambda *asked: compared.append(asked[-1]) or compare_scores(*asked)
    )
    page = finished(opened(**SMALL))
    page.run()
    page.session_state["task by"] = "rule"
    page.run()
    page.session_state["task by"] = "family"
    page.run()
    assert not page.exception
    assert compared == ["family", "rule"]
    result = page.session_state["task run"].job.value()
    shown, again = result.accuracy("rule"), result.accuracy("rule")
    shown["exact_match"] = -1.0  # what is done to a table is not done to the next one
    assert (again.exact_match >= 0).all()
    assert (result.accuracy("rule").exact_match >= 0).all()


def test_a_request_is_checked_by_one_row_and_refused_as_its_rows_would_be(monkeypatch):
    made = []
    monkeypatch.setattr(task_runs, "generate", lambda *given, **more: made.append(generate(*given, **more)) or made[-1])
    TaskRequest(NAMES, rows=3000).check()
    assert [len(rows) for rows in made] == [1]
    for rows in (0, -7):
        with pytest.raises(ValueError, match=f"rows_per_rule is {rows}; at least 1"):
            TaskRequest(NAMES, rows=rows).check()


def test_kept_scores_are_bounded(monkeypatch):
    monkeypatch.setattr(session, "ANSWERS_KEPT", 20)
    bench = Workbench()
    for seed in range(3):
        bench.start_tasks(TaskRequest(NAMES[:1], rules=(5, 60), seed=seed)).wait(120)
    assert len(bench._task_scores) == 1
    assert bench._task_scores.currsize == 12


def test_cancelling_ends_the_run_and_leaves_the_next_one_working():
    bench, request = Workbench(), TaskRequest(NAMES, rows=20)
    job = bench.start_tasks(request)
    while job.running and not job.progress[0]:
        time.sleep(0.01)
    waiting = bench.start_tasks(request)
    waiting.cancel()
    waiting.wait(60)
    assert waiting.cancelled  # though the other goes on
    assert job.running
    job.cancel()
    job.wait(60)
    assert job.cancelled
    assert 0 < job.progress[0] < job.progress[1]
    small = bench.start_tasks(TaskRequest(NAMES[:1], rules=(5,)))
    small.wait(60)
    assert len(small.value().answers()) == 6


# -- in a real browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serve_streamlit(ROOT / "app.py", log=tmp_path_factory.mktemp("app") / "app.log") as url:
        yield url


@pytest.fixture
def tab(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 1000}, accept_downloads=True)
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


@pytest.mark.browser
def test_a_person_runs_cancels_follows_a_row_and_comes_back(tab, browser, address):
    tab.goto(f"{address}/tasks?rows=30")
    tab.get_by_role("button", name="Run", exact=True).click()
    expect(tab.get_by_text(re.compile(r"\d+ of 4440 rows read"))).to_be_visible(timeout=PATIENCE)
    tab.get_by_role("button", name="Cancel").click()
    expect(tab.get_by_text(re.compile(r"Cancelled after \d+ of 4440 rows"))).to_be_visible(timeout=PATIENCE)

    tab.goto(f"{address}/tasks?rules=20,21,72&seed=3")
    tab.get_by_role("button", name="Run", exact=True).click()
    expect(tab.get_by_text("18 of 18 answers; of these dcformer")).to_be_visible(timeout=PATIENCE)
    settled(tab)
    cells = tab.get_by_test_id("stDataFrame").last
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()
    tab.mouse.click(box["x"] + 18, box["y"] + 35 * 2 + 17)  # the box before the second answer
    expect(tab.get_by_text("Row 0, line 3 · rule 20")).to_be_visible(timeout=PATIENCE)
    settled(tab)
    link = tab.url
    assert str(RowName(20, seed=3, line=3)) in link

    tab.get_by_role("button", name="Open in Explore").click()
    tokens = tab.get_by_test_id("token-strip").locator("button")
    prompt = prompt_before(RowName(20, seed=3).row(), 3, load_model(NAMES[0]).tokenizer)
    count = len(load_model(NAMES[0]).to_tokens(prompt)[0])
    expect(tokens).to_have_count(count, timeout=PATIENCE)
    expect(tokens.nth(count - 1)).to_have_class(re.compile("query"))

    fresh = browser.new_context().new_page()
    fresh.set_default_timeout(PATIENCE)
    fresh.goto(link)  # another browser
    expect(fresh.get_by_text("Row 0, line 3 · rule 20")).to_be_visible(timeout=PATIENCE)
    settled(fresh)
    fresh.get_by_role("button", name="Open its clean").click()
    expect(fresh.get_by_text("A pair of rows that differ in line 3")).to_be_visible(timeout=PATIENCE)
    settled(fresh)
    fresh.get_by_role("button", name="Run", exact=True).click()
    expect(fresh.get_by_text(re.compile("Logit difference over the answer of task row 20"))).to_be_visible(
        timeout=PATIENCE
    )
    fresh.context.close()


@pytest.mark.browser
def test_every_format_downloads(tab, address, tmp_path, truth):
    tab.goto(f"{address}/tasks?rules=20,21,72&seed=3&run=yes")
    expect(tab.get_by_text("18 of 18 answers")).to_be_visible(timeout=PATIENCE)
    settled(tab)
    tab.get_by_text("Save", exact=True).first.click()
    for kind, start in {"PNG": b"\x89PNG", "SVG": b"<svg", "HTML": b"<!"}.items():
        with tab.expect_download() as saving:
            tab.get_by_role("button", name=kind, exact=True).first.click()
        path = tmp_path / saving.value.suggested_filename
        saving.value.save_as(path)
        assert path.read_bytes().lower().lstrip().startswith(start.lower()), kind
    tab.keyboard.press("Escape")
    with tab.expect_download() as saving:
        tab.get_by_role("button", name="Download CSV").last.click()
    saving.value.save_as(tmp_path / "answers.csv")
    table = pd.read_csv(tmp_path / "answers.csv")
    assert table[f"{NAMES[1]}: right"].tolist() == [one.right for one in truth[NAMES[1]].answers]
    assert table[f"{NAMES[0]}: P(answer)"].tolist() == pytest.approx(
        [one.first_probability for one in truth[NAMES[0]].answers], abs=1e-6
    )


@pytest.mark.browser
def test_a_task_row_from_the_sidebar_becomes_the_prompt(tab, address):
    tab.goto(address)
    tab.get_by_test_id("token-strip").wait_for()
    settled(tab)
    tab.get_by_role("button", name="Task row").click()
    tab.get_by_role("button", name="Use up to its answer").click()
    prompt = prompt_before(RowName(0, line=2).row(), 2, load_model(NAMES[0]).tokenizer)
    count = len(load_model(NAMES[0]).to_tokens(prompt)[0])
    expect(tab.get_by_test_id("token-strip").locator("button")).to_have_count(count, timeout=PATIENCE)
