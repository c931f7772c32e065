"""The Intervene page: as a script with good and bad input, and in a real browser as a person uses it."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest

from model import capture, load_model
from probes import Intervention, MeanMixing, uncomposed_twin
from probes.attribution import agreement, attribute
from probes.examples import text_examples
from probes.interventions import from_json, to_json
from probes.measures import measured
from probes.sweeps import branch_cells, edge_cells, sweep
from tests.browser_tools import ROOT, open_browser, serve_streamlit, settled
from workbench import views
from workbench.model_choice import ModelChoice
from workbench.pages.shared import EXAMPLES, workbench
from workbench.scripts import sweep_script

PROMPT = "< Mary has an apple. John has a violin. >. Who has violin?"
PATIENCE = 60_000  # ms; a busy machine is slow, and no test here measures speed


@pytest.fixture(scope="module")
def model():
    return load_model("demo/dcformer")


@pytest.fixture
def page() -> AppTest:
    # the page imports the whole model stack, so the first run is slow
    opened = AppTest.from_file(str(ROOT / "workbench/pages/intervene.py"), default_timeout=120).run()
    return opened.text_area(key="prompt").set_value(PROMPT).run()


def shown(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def assert_numbers_are_those_of(page: AppTest, model, change) -> None:
    assert not page.exception
    assert not page.error
    examples = text_examples(model, [PROMPT])
    intact, changed = measured(model, examples, ["loss"]), measured(model, examples, ["loss", "kl"], change)
    numbers = shown(page)
    assert float(numbers["loss, intact"]) == pytest.approx(intact["loss"].mean, abs=1e-4)
    assert float(numbers["loss, changed"]) == pytest.approx(changed["loss"].mean, abs=1e-4)
    assert float(numbers["mean KL(intact ‖ changed)"]) == pytest.approx(changed["kl"].mean, abs=1e-4)


def load(page: AppTest, text: str) -> AppTest:
    page.text_area(key="change_json").set_value(text).run()
    return page.button(key="load").click().run()


def test_the_page_opens_on_the_uncomposed_twin(page, model):
    assert_numbers_are_those_of(page, model, uncomposed_twin())


def test_predictions_stand_side_by_side(page, model):
    before = capture(model, PROMPT)
    with uncomposed_twin().applied(model):
        after = capture(model, PROMPT)
    for table, run in zip(page.dataframe, (before, after), strict=True):
        truth = views.next_tokens(run, len(run) - 1, model.to_string)
        assert table.value["probability"].tolist() == pytest.approx([p for _, p in truth], abs=1e-5)


@pytest.mark.parametrize(
    ("mode", "number", "change"),
    [
        ("zero", {}, {}),
        ("scale", {"slider": ("amount", 1.5)}, {"amount": 1.5}),
        ("set", {"number_input": ("value", 0.25)}, {"value": 0.25}),
        ("shuffle", {"number_input": ("seed", 3)}, {"seed": 3}),
        ("random", {"number_input": ("seed", 3)}, {"seed": 3}),
    ],
)
def test_a_filled_row_is_that_intervention(page, model, mode, number, change):
    page.selectbox(key="change 0 mode").select(mode).run()
    for kind, (field, value) in number.items():
        getattr(page, kind)(key=f"change 0 {field}").set_value(value)
    where = {"layers": [1, 2], "sites": ["post"], "branches": ["query_lowrank", "query_gate"], "targets": [2, 5]}
    for field, value in where.items():
        page.multiselect(key=f"change 0 {field}").set_value(value)
    page.multiselect(key="change 0 positions").set_value([4, 9])
    page.run()
    assert_numbers_are_those_of(page, model, Intervention(mode=mode, positions=[4, 9], **where, **change))


def test_a_mean_says_what_it_was_taken_over(page, model):
    page.selectbox(key="change 0 mode").select("mean").run()
    mean = MeanMixing.over(model, EXAMPLES.values())
    assert any(f"mean over the {mean.tokens} tokens of the 6 example prompts" in c.value for c in page.caption)
    assert_numbers_are_those_of(page, model, Intervention(mode="mean", mean=mean))
    page.selectbox(key="change 0 corpus").select("this prompt").run()
    assert_numbers_are_those_of(page, model, Intervention(mode="mean", mean=MeanMixing.over(model, [PROMPT])))


def test_rows_add_up_and_go(page, model):
    page.multiselect(key="change 0 layers").set_value([0]).run()
    page.button(key="add").click().run()
    page.selectbox(key="change 1 mode").select("zero").run()
    page.multiselect(key="change 1 layers").set_value([3]).run()
    first, second = Intervention(mode="identity", layers=[0]), Intervention(layers=[3])
    assert_numbers_are_those_of(page, model, first + second)
    page.button(key="remove 0").click().run()
    assert_numbers_are_those_of(page, model, second)
    page.button(key="remove 1").click().run()
    assert "Nothing is changed yet" in page.info[0].value
    assert not page.exception


def test_what_the_library_refuses_is_said_in_its_words(page, model):
    page.multiselect(key="change 0 branches").set_value(["key_gate"]).run()
    assert "Mode 'identity' replaces the whole of M" in page.error[0].value
    page.selectbox(key="change 0 mode").select("zero").run()
    assert_numbers_are_those_of(page, model, Intervention(branches=["key_gate"]))


def test_positions_of_a_longer_prompt_are_refused_not_forgotten(page):
    page.selectbox(key="change 0 mode").select("zero").run()
    page.multiselect(key="change 0 positions").set_value([9]).run()
    page.text_area(key="prompt").set_value(" Mary has an apple").run()
    assert "Position 9 does not exist" in page.error[0].value
    assert not page.exception


def test_the_plain_model_says_that_nothing_can_be_changed(page):
    page.selectbox(key="model").select("demo/transformer").run()
    assert not page.exception
    assert "mixes no heads" in page.info[0].value


@pytest.mark.parametrize("prompt", [" Mary", " ", "🙂 שלום", "<b>x</b>"])
def test_strange_prompts_are_answered(page, prompt):
    page.text_area(key="prompt").set_value(prompt).run()
    assert not page.exception
    assert len(page.metric) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "This is no JSON"),
        ("{", "This is no JSON"),
        ("[]", "a list of objects"),
        ('[{"mode": "wipe"}]', "Unknown mode 'wipe'"),
        ('[{"dose": 1}]', "Interventions have no dose"),
        ('[{"layers": [9]}]', "Layer 9 does not exist"),
        ('[{"layers": ["0"]}]', "layers of intervention 1 must be a list of whole numbers"),
        ('[{"positions": {"0": 1}}]', "positions"),
        ('[{"positions": []}]', "positions is empty"),
        ('[{"mode": "scale", "amount": "2"}]', "amount of intervention 1 must be a number"),
        ('[{"mode": "random", "seed": -1}]', "seed of intervention 1"),
        ('[{"mode": "mean", "mean": {}}]', "cannot be read"),
    ],
)
def test_bad_json_is_answered_with_a_message_and_changes_nothing(page, model, text, message):
    load(page, text)
    assert not page.exception
    assert message in page.error[0].value
    page.run()
    assert_numbers_are_those_of(page, model, uncomposed_twin())


def test_json_fills_the_form(page, model):
    change = Intervention(layers=[1], sites=["pre"], sources=[2], targets=[3], mode="set", value=0.5) + Intervention(
        branches=["key_gate"], positions=[4], mode="scale", amount=-1
    )
    load(page, to_json(change))
    assert_numbers_are_those_of(page, model, change)
    assert page.selectbox(key="change 1 mode").value == "set"
    assert page.multiselect(key="change 2 positions").value == [4]
    assert page.slider(key="change 2 amount").value == -1


def test_json_that_the_form_cannot_show_is_applied(page, model):
    mean = MeanMixing.over(model, [PROMPT])
    change = Intervention(layers=[-1]) + Intervention(layers=[0], mode="mean", mean=mean)
    load(page, to_json(change))
    assert_numbers_are_those_of(page, model, from_json(to_json(change)))
    assert len(page.code) > 2


def test_prompt_and_rows_stay_while_another_page_is_shown():
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120).run()
    app.text_area(key="prompt").set_value(PROMPT).run()
    app.switch_page("workbench/pages/intervene.py").run()
    assert app.text_area(key="prompt").value == PROMPT
    app.selectbox(key="change 0 mode").select("scale").run()
    app.slider(key="change 0 amount").set_value(2.0).run()
    changed = shown(app)
    app.switch_page("workbench/pages/explore.py").run()
    assert app.text_area(key="prompt").value == PROMPT
    app.switch_page("workbench/pages/intervene.py").run()
    assert app.slider(key="change 0 amount").value == 2.0
    assert shown(app) == changed


# -- sweeps ------------------------------------------------------------------------------------------


@pytest.fixture
def sweeping(page) -> AppTest:
    page.session_state["section"] = "sweep"
    return page.run()


def run_sweep(page: AppTest) -> AppTest:
    page.button(key="run sweep").click().run()
    assert not page.error
    page.session_state.sweep.job.wait(120)
    return page.run()


def test_a_sweep_on_the_page_is_the_librarys(sweeping, model):
    sweeping.selectbox(key="sweep grid").select("edge").run()
    sweeping.multiselect(key="sweep layers").set_value([1]).run()
    sweeping.checkbox(key="sweep estimate").check().run()
    run_sweep(sweeping)
    assert not sweeping.exception
    examples, cells = text_examples(model, [PROMPT]), edge_cells(model.cfg, layers=[1])
    truth, estimates = sweep(model, examples, cells, ["loss"]), attribute(model, examples, cells)
    table = sweeping.dataframe[0].value.sort_values(["site", "source", "target"], ascending=[False, True, True])
    assert table.change.tolist() == pytest.approx(truth.change.tolist(), abs=1e-6)
    assert table.estimate.tolist() == pytest.approx(estimates.estimate.tolist(), abs=1e-6)
    correlation = float(shown(sweeping)["correlation"])
    assert correlation == pytest.approx(agreement(estimates, truth)["pearson"], abs=1e-3)


def test_task_rows_give_intervals(sweeping):
    sweeping.selectbox(key="sweep over 2").select("held-out task rows").run()
    sweeping.number_input(key="sweep rows").set_value(3)
    sweeping.selectbox(key="sweep measure").select("accuracy")
    sweeping.multiselect(key="sweep layers").set_value([3]).run()
    run_sweep(sweeping)
    table = sweeping.dataframe[0].value
    assert set(table.measure) == {"accuracy"}
    assert table.low.notna().all()


@pytest.mark.parametrize("grid", ["branch", "head", "position"])
def test_every_grid_runs_and_is_drawn(sweeping, grid):
    sweeping.selectbox(key="sweep grid").select(grid).run()
    sweeping.multiselect(key="sweep layers").set_value([3]).run()
    run_sweep(sweeping)
    assert not sweeping.exception
    assert len(sweeping.dataframe) == 1


def test_a_sweep_is_shown_after_its_model_was_unloaded():
    bench = workbench()
    load = bench.start_load(ModelChoice("demo/dcformer", "cpu", "bfloat16"))
    load.wait(120)
    name = load.value()
    try:
        page = AppTest.from_file(str(ROOT / "workbench/pages/intervene.py"), default_timeout=120).run()
        page.selectbox(key="model").select(name).run()
        page.session_state["section"] = "sweep"
        page.run()
        page.selectbox(key="sweep grid").select("position").run()
        page.multiselect(key="sweep layers").set_value([3]).run()
        run_sweep(page)
        assert not page.exception
    finally:
        bench.unload(name)
    page.selectbox(key="model").select("demo/dcformer").run()
    assert not page.exception
    assert not page.error
    assert any("settings above have changed" in caption.value for caption in page.caption)
    assert page.get("plotly_chart")
    assert sweep_script(page.session_state.sweep.request).strip() in [code.value for code in page.code]


def test_cancelling_keeps_what_is_done_and_leaves_the_next_request_working(sweeping, model):
    sweeping.selectbox(key="sweep over 2").select("held-out task rows").run()
    sweeping.multiselect(key="sweep layers").set_value([0, 2])
    sweeping.number_input(key="sweep rows").set_value(16).run()
    sweeping.button(key="run sweep").click().run()
    job = sweeping.session_state.sweep.job
    while job.running and not job.progress[0]:
        time.sleep(0.01)
    sweeping.button(key="cancel sweep").click().run()
    job.wait(120)
    sweeping.run()
    assert re.search(r"Cancelled after \d+ of 40 runs", sweeping.warning[0].value)
    kept = job.progress[0]
    assert 0 < kept < job.progress[1]
    sweeping.session_state["section"] = "one change"
    assert_numbers_are_those_of(sweeping.run(), model, uncomposed_twin())
    sweeping.session_state["section"] = "sweep"
    run_sweep(sweeping.run())  # goes on
    assert len(sweeping.dataframe[0].value) == len(branch_cells(model.cfg, layers=[0, 2]))


def test_a_sweep_that_cannot_run_is_refused_before_it_starts(sweeping):
    sweeping.text_area(key="prompt").set_value(" Mary").run()
    sweeping.button(key="run sweep").click().run()
    assert "a prediction needs 2" in sweeping.error[0].value
    assert "sweep" not in sweeping.session_state


# -- in a real browser -------------------------------------------------------------------------------


def choose(page: Page, label: str, option: str) -> None:
    """Pick an option of a list on the page by typing into it."""
    box = page.get_by_role("combobox", name=re.compile(label))
    box.click()
    page.get_by_role("option", name=option, exact=True).click()
    page.keyboard.press("Escape")
    settled(page)


@pytest.mark.browser
def test_a_person_builds_an_intervention_and_cancels_a_sweep(tmp_path, model):
    with serve_streamlit(ROOT / "app.py", log=tmp_path / "app.log") as url, open_browser() as browser:
        tab = browser.new_page(viewport={"width": 1280, "height": 1000})
        tab.set_default_timeout(PATIENCE)
        tab.goto(url)
        tab.get_by_test_id("token-strip").wait_for()
        box = tab.get_by_label("Prompt", exact=True)
        box.fill(PROMPT)
        box.press("Control+Enter")
        settled(tab)
        tab.get_by_role("link", name="Intervene").click()
        expect(tab.get_by_text("What head mixing does")).to_be_visible(timeout=PATIENCE)
        settled(tab)
        expect(tab.get_by_label("Prompt", exact=True)).to_have_value(PROMPT, timeout=PATIENCE)
        choose(tab, "Intervention 1: mode", "zero")
        choose(tab, "Layers", "2")
        choose(tab, "Sites", "post")
        cut = Intervention(layers=[2], sites=["post"])
        truth = measured(model, text_examples(model, [PROMPT]), ["kl"], cut)["kl"].mean
        metric = tab.get_by_test_id("stMetric").filter(has_text="mean KL").get_by_test_id("stMetricValue")
        expect(metric).to_have_text(f"{truth:.4f}", timeout=PATIENCE)
        tab.get_by_text("sweep", exact=True).click()
        settled(tab)
        choose(tab, "Grid", "layer × site × edge")
        choose(tab, "Measured over", "held-out task rows")
        tab.get_by_role("button", name="Run").click()
        expect(tab.get_by_text(re.compile(r"\d+ of 448 runs"))).to_be_visible(timeout=PATIENCE)
        tab.get_by_role("button", name="Cancel").click()
        expect(tab.get_by_text(re.compile(r"Cancelled after \d+ of 448 runs"))).to_be_visible(timeout=PATIENCE)
        expect(tab.get_by_role("button", name="Run")).to_be_enabled(timeout=PATIENCE)
        choose(tab, "Measured over", "this prompt")
        tab.get_by_role("button", name="Run").click()
        expect(tab.get_by_role("button", name="Download CSV")).to_be_visible(timeout=PATIENCE)
        tab.close()
