"""The Compare page: as a script with good and bad input, and in a real browser as a person uses it."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Page, expect
from streamlit.testing.v1 import AppTest

from model import capture, load_model
from probes import Comparison, Intervention, MeanMixing, compare, uncomposed_twin
from probes.interventions import from_json, to_json
from tests.browser_tools import ROOT, serve_streamlit, settled
from tests.compared_models import model_folder
from workbench import comparison_views
from workbench.pages.shared import EXAMPLES, SAVED, workbench

PROMPT = "< Mary has an apple. John has a violin. >. Who has violin?"
FIRST = next(iter(EXAMPLES.values()))
CUT = to_json(Intervention(layers=[1], sites=["post"]))
PATIENCE = 90_000  # ms; a busy machine is slow, and no test here measures speed


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Names of models in a folder that the page offers while these tests run."""
    names = model_folder(tmp_path_factory.mktemp("offered"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_MODELS", str(Path(names["turned"]).parent))
        workbench.clear()
        yield names
    workbench.clear()


@pytest.fixture(scope="module")
def model():
    return load_model("demo/dcformer")


def opened(**said: str) -> AppTest:
    """The page at an address."""
    # the page imports the whole model stack, so the first run is slow
    page = AppTest.from_file(str(ROOT / "workbench/pages/compare.py"), default_timeout=120)
    for name, value in said.items():
        page.query_params[name.replace("_", "-")] = value
    return page.run()


def numbers(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def text(page: AppTest) -> str:
    """All captions, headings and notes, without Markdown's escapes."""
    parts = [*page.caption, *page.markdown, *page.info, *page.error, *page.warning]
    return re.sub(r"\\(.)", r"\1", "\n".join(part.value for part in parts))


def said(page: AppTest) -> dict[str, str]:
    return {name: value[0] if isinstance(value, list) else value for name, value in page.query_params.items()}


def assert_numbers_are_those_of(page: AppTest, wanted: Comparison) -> None:
    assert not page.exception
    assert not page.error
    shown, summary = numbers(page), wanted.summary
    assert float(shown["loss, A"]) == pytest.approx(summary["loss_a"], abs=1e-4)
    assert float(shown["loss, B"]) == pytest.approx(summary["loss_b"], abs=1e-4)
    assert float(shown["mean KL(A ‖ B)"]) == pytest.approx(summary["kl"], abs=1e-4)
    assert shown["aligned tokens"] == str(summary["aligned_tokens"])
    tokens, following, heads, metrics = (table.value for table in page.dataframe)
    ordered = wanted.tokens.sort_values("kl", ascending=False, kind="stable")
    assert tokens.position_b.tolist() == ordered.position_b.tolist()
    assert tokens.kl.tolist() == pytest.approx(ordered.kl.tolist(), abs=1e-5)
    at = wanted.tokens.position_a.tolist().index(page.session_state["compare at"])
    assert following.p_b.tolist() == pytest.approx(wanted.next_tokens(at).p_b.tolist(), abs=1e-5)
    assert heads.distance.tolist() == pytest.approx(sorted(wanted.heads.distance, reverse=True), abs=1e-4)
    layer, head = page.session_state["compare head"]
    rows = wanted.metrics()
    rows = rows[(rows["layer"] == layer) & (rows["head_a"] == head)]
    assert metrics.a.tolist() == pytest.approx(rows.a.tolist(), abs=1e-5)
    assert metrics.b.tolist() == pytest.approx(rows.b.tolist(), abs=1e-5)


def read_cell(page: AppTest) -> tuple[float, float]:
    """A and B of the outlined cell, as written below the maps."""
    line = next(code.value for code in page.code if code.value.startswith("query "))
    found = re.search(r" A (-?[\d.]+) +B (-?[\d.]+) ", line)
    assert found, line
    return float(found[1]), float(found[2])


# -- what is shown -----------------------------------------------------------------------------------


def test_the_page_opens_on_the_first_example_and_its_uncomposed_twin(models, model):
    page = opened()
    assert_numbers_are_those_of(page, compare(model, uncomposed_twin(), FIRST))
    assert "off the distribution" in text(page)


def test_every_preset_is_one_click(models, model):
    page = opened()
    page.button(key="compare with frozen").click().run()
    frozen = Intervention(mode="mean", mean=MeanMixing.over(model, EXAMPLES.values()))
    assert_numbers_are_those_of(page, compare(model, frozen, FIRST))
    page.button(key="compare with pair").click().run()
    assert_numbers_are_those_of(page, compare(model, load_model("demo/transformer"), FIRST))
    assert "match" in text(page)
    page.button(key="compare with prompt").click().run()
    second = list(EXAMPLES.values())[1]
    assert_numbers_are_those_of(page, compare(model, model, FIRST, other_prompt=second))
    page.button(key="compare with twin").click().run()
    assert_numbers_are_those_of(page, compare(model, uncomposed_twin(), FIRST))


def test_both_sides_may_run_under_interventions(models, model):
    page = opened(prompt=PROMPT, a="uncomposed twin", b="intervention", b_json=CUT)
    with uncomposed_twin().applied(model):
        a = capture(model, PROMPT)
    with from_json(CUT).applied(model):
        b = capture(model, PROMPT)
    assert_numbers_are_those_of(page, Comparison(("A", "B"), (a, b), [(i, i) for i in range(len(a))], "same"))


@pytest.mark.parametrize("kind", ["scores", "pattern"])
@pytest.mark.parametrize("stage", ["raw", "composed"])
def test_the_cell_below_the_maps_is_the_librarys(models, model, kind, stage):
    page = opened(prompt=PROMPT, at="9", key="4", head="2.5", map=kind, stage=stage)
    assert not page.exception
    found = compare(model, uncomposed_twin(), PROMPT)
    truth = [float(getattr(run, kind)(2, stage, heads=5, queries=9, keys=4)) for run in found.runs]
    assert read_cell(page) == pytest.approx(truth, abs=1e-4)


def test_maps_are_aligned_once_a_run(models, monkeypatch):
    aligned = []
    align = comparison_views.aligned_maps
    monkeypatch.setattr(comparison_views, "aligned_maps", lambda *asked: aligned.append(asked) or align(*asked))
    page = opened(prompt=PROMPT, head="2.5")
    assert not page.exception
    assert len(aligned) == 1
    page.selectbox(key="compare head").select((1, 4)).run()
    assert not page.exception
    assert len(aligned) == 2


def test_heads_of_two_trainings_follow_their_partners_until_one_is_chosen(models, model):
    page = opened(prompt=PROMPT, b_model="demo/transformer", b="as trained", at="9", key="4", head="1.2")
    found = compare(model, load_model("demo/transformer"), PROMPT)
    partners = {(row.layer, row.head_a): row.head_b for row in found.heads.itertuples()}
    assert page.session_state["compare other head"] == (1, partners[1, 2])
    page.selectbox(key="compare head").set_value((2, 6)).run()
    assert page.session_state["compare other head"] == (2, partners[2, 6])
    page.selectbox(key="compare other head").set_value((0, 7)).run()
    assert "Not a pair" in text(page)
    truth = [float(found.runs[0].pattern(2, heads=6, queries=9, keys=4)),
             float(found.runs[1].pattern(0, heads=7, queries=9, keys=4))]  # fmt: skip
    assert read_cell(page) == pytest.approx(truth, abs=1e-4)
    page.checkbox(key="compare same heads").check().run()
    assert page.session_state["compare other head"] == (2, 6)


def test_a_change_saved_on_intervene_is_offered(models, model):
    page = opened(prompt=PROMPT, b="intervention")
    page.session_state[SAVED] = {CUT: "zero · layers 1 · sites post"}
    page.run()
    page.selectbox(key="compare b saved").select(CUT).run()
    assert_numbers_are_those_of(page, compare(model, from_json(CUT), PROMPT))
    assert said(page)["b-json"] == CUT


@pytest.mark.parametrize("side", ["A", "B"])
def test_a_side_opens_in_explore_as_it_ran(models, model, side):
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120).run()
    app.switch_page("workbench/pages/compare.py").run()
    app.selectbox(key="compare head").set_value((2, 5)).run()
    app.session_state["compare at"], app.session_state["compare key"] = 9, 4
    app.run()
    app.button(key=f"compare explore {side}").click().run()
    assert not app.exception
    assert vars(app.session_state.selection) == {"layer": 2, "head": 5, "query": 9, "key": 4}
    run = compare(model, uncomposed_twin(), FIRST).runs["AB".index(side)]
    shown = float(numbers(app)["composed, head 5"])
    assert shown == pytest.approx(float(run.pattern(2, heads=5, queries=9, keys=4)), abs=1e-4)


def test_a_place_stays_while_b_changes_and_goes_with_a(models):
    page = opened(prompt=PROMPT, at="9", key="4", head="1.2")
    page.button(key="compare with pair").click().run()
    assert (page.session_state["compare at"], page.session_state["compare head"]) == (9, (1, 2))
    page.text_area(key="prompt").set_value(FIRST).run()
    assert page.session_state["compare head"] != (1, 2)
    assert not page.exception


def test_a_state_comes_back_from_its_address(models):
    page = opened(prompt=PROMPT, at="8", key="2", head="3.1", map="scores", stage="raw")
    page.button(key="compare with prompt").click().run()
    page.selectbox(key="compare metric").select("row_sum").run()
    again = opened(**said(page))
    assert not again.warning
    assert said(again) == said(page)
    assert numbers(again) == numbers(page)
    assert read_cell(again) == read_cell(page)
    assert again.selectbox(key="compare metric").value == "row_sum"


# -- bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ({"b_model": "demo/nothing"}, "The link says b-model='demo/nothing', but it is one of"),
        ({"b": "sideways"}, "it is one of as trained, uncomposed twin"),
        ({"head": "1"}, "2 whole numbers"),
        ({"head": "9.9"}, "names a place that these runs do not have"),
        ({"at": "99"}, "names a place that these runs do not have"),
        ({"window": "0-90.0-90"}, "names a place that these runs do not have"),
        ({"at": "-1"}, "it may be 0 to any"),
    ],
)
def test_a_wrong_link_is_named_and_the_page_goes_on(models, address, message):
    page = opened(**address)
    assert not page.exception
    assert message in re.sub(r"\\(.)", r"\1", page.warning[0].value)
    assert "loss, A" in numbers(page)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ({"same_prompt": "no"}, "Type what side B reads"),
        ({"same_prompt": "no", "b_prompt": "zebra"}, "share no token"),
        ({"same_prompt": "no", "b_prompt": "word " * 2000}, "the context of this model is 1024"),
        ({"b": "intervention"}, "Paste the interventions of side B"),
        ({"b": "intervention", "b_json": "{"}, "This is no JSON"),
        ({"a": "intervention", "a_json": '[{"layers": [9]}]'}, "9"),
        ({"model": "demo/transformer"}, "composition is off"),
        ({"prompt": "~AAAA"}, "damaged"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_sentence(models, address, message):
    page = opened(**address)
    assert not page.exception
    assert message in text(page)


def test_two_models_without_mixing_compare(models):
    page = opened(model="demo/transformer", b="as trained")
    assert not page.exception
    assert float(numbers(page)["mean KL(A ‖ B)"]) == 0


def test_models_of_other_shapes_and_vocabularies_are_told_apart(models):
    page = opened(b_model=models["turned"], b="as trained")
    assert not page.exception
    assert "different vocabularies" in text(page)
    assert numbers(page)["mean KL(A ‖ B)"] == "none"
    page = opened(b_model=models["shallow"], b="as trained")
    assert not page.exception
    assert "These heads are not paired" in text(page)
    assert "Metrics stand side by side for paired heads" in text(page)
    page = opened(b_model=models["shallow"], b="as trained", same_heads="yes")
    assert "heads cannot be the same" in text(page)
    page = opened(b_model=models["wide"], b="as trained")
    assert re.search(r"Unpaired: (B L\d H\d, ){7}B L\d H\d\.", text(page))
    page = opened(model=models["wide"], b_model="demo/dcformer", b="as trained", head="0.0")
    assert not page.exception
    page = opened(b_model=models["wordless"], b="as trained")
    assert "no tokenizer" in text(page)


def test_one_token_has_no_loss_and_is_compared_all_the_same(models):
    page = opened(prompt=" Mary")
    assert not page.exception
    assert numbers(page)["loss, A"] == "none"


# -- in a real browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with serve_streamlit(ROOT / "app.py", log=tmp_path_factory.mktemp("compare") / "app.log") as served:
        yield served


def open_tab(browser, address: str) -> Page:
    tab = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
    tab.set_default_timeout(PATIENCE)
    tab.goto(address)
    expect(tab.get_by_text("Head metrics, side by side")).to_be_visible(timeout=PATIENCE)
    settled(tab)
    return tab


def cell_line(tab: Page) -> str:
    return tab.get_by_test_id("stCode").filter(has_text="B - A").inner_text()


def click_canvas(tab: Page, viewer: int, panel: int, row: float, col: float) -> None:
    """Click a viewer's panel at a share of its height and width."""
    canvas = tab.get_by_test_id("map-viewer").nth(viewer).get_by_test_id("map-canvas").nth(panel)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * col, "y": box["height"] * row})
    settled(tab)


@pytest.mark.browser
def test_a_person_compares_looks_closer_passes_the_link_on_and_goes_to_explore(browser, url, model):
    tab = open_tab(browser, f"{url}/compare")
    expect(tab.get_by_test_id("token-strip")).to_have_count(1, timeout=PATIENCE)
    tab.get_by_role("button", name="the plain model").click()
    expect(tab.get_by_text("Heads: two trainings")).to_be_visible(timeout=PATIENCE)
    settled(tab)
    tab.get_by_test_id("token-strip").locator("button").nth(13).click()
    expect(tab.get_by_text("Most likely next tokens after position 13")).to_be_visible(timeout=PATIENCE)
    settled(tab)
    click_canvas(tab, 0, 0, 1.5 / 4, 2.5 / 8)
    found = compare(model, load_model("demo/transformer"), FIRST)
    partner = int(found.heads.query("layer == 1 and head_a == 2").head_b.iloc[0])
    expect(tab.get_by_text(f"A's layer 1, head 2 and B's layer 1, head {partner}")).to_be_visible(timeout=PATIENCE)
    size = len(found.pairs)
    click_canvas(tab, 1, 2, 9.5 / size, 4.5 / size)
    a, b = (float(run.pattern(1, heads=head, queries=9, keys=4))
            for run, head in zip(found.runs, (2, partner), strict=True))  # fmt: skip
    expect(tab.get_by_test_id("stCode").filter(has_text=f"A {a:.4f}")).to_contain_text(f"B {b:.4f}", timeout=PATIENCE)
    assert re.search(r"query 9: \S+ +key 4: ", cell_line(tab))
    tab.get_by_role("button", name="another prompt").click()
    expect(tab.get_by_test_id("token-strip")).to_have_count(2, timeout=PATIENCE)
    expect(tab.get_by_text("A's layer 1, head 2 and B's layer 1, head 2")).to_be_visible(timeout=PATIENCE)
    expect(tab).to_have_url(re.compile("same-prompt=no"), timeout=PATIENCE)
    settled(tab)
    other = open_tab(browser, tab.url)
    shown = tab.get_by_test_id("stCode").filter(has_text="B - A").inner_text()
    expect(other.get_by_test_id("stCode").filter(has_text="B - A")).to_have_text(shown, timeout=PATIENCE)
    expect(other.get_by_text("A's layer 1, head 2 and B's layer 1, head 2")).to_be_visible(timeout=PATIENCE)
    expect(other).to_have_url(tab.url, timeout=PATIENCE)
    other.get_by_role("button", name="Open B in Explore").click()
    expect(other.get_by_text("Layer 1, head 2: before and after mixing")).to_be_visible(timeout=PATIENCE)
    expect(other.get_by_label("Prompt", exact=True)).to_have_value(list(EXAMPLES.values())[1], timeout=PATIENCE)
    for one in (tab, other):
        one.context.close()


@pytest.mark.browser
def test_a_row_of_what_differs_most_opens_its_maps(browser, url, model):
    tab = open_tab(browser, f"{url}/compare")
    worst = compare(model, uncomposed_twin(), FIRST).heads.sort_values("distance", ascending=False).iloc[3]
    frame = tab.get_by_test_id("stDataFrame").nth(2)
    frame.scroll_into_view_if_needed()
    box = frame.bounding_box()
    tab.mouse.click(box["x"] + 16, box["y"] + 36 * 4.5)  # a header and three rows above
    expect(tab.get_by_text(f"A's layer {int(worst.layer)}, head {int(worst.head_a)} and B's")).to_be_visible(
        timeout=PATIENCE
    )
    tab.context.close()


@pytest.mark.browser
def test_every_file_holds_what_is_shown(browser, url, model, tmp_path):
    tab = open_tab(browser, f"{url}/compare?at=9&key=4&head=2.5")
    found = compare(model, uncomposed_twin(), FIRST)
    with tab.expect_download() as saving:
        tab.locator('[class*="st-key-compare-token-table"][class*="csv"] button').click()
    saving.value.save_as(tmp_path / "tokens.csv")
    table = pd.read_csv(tmp_path / "tokens.csv")
    assert table.kl.tolist() == pytest.approx(sorted(found.tokens.kl, reverse=True), abs=1e-5)
    with tab.expect_download() as saving:
        tab.get_by_role("button", name="All pairs as CSV").click()
    saving.value.save_as(tmp_path / "metrics.csv")
    assert len(pd.read_csv(tmp_path / "metrics.csv")) == len(found.metrics())
    tab.get_by_text("Save", exact=True).last.click()
    for kind, start in {"PNG": b"\x89PNG", "SVG": b"<svg", "HTML": b"<!"}.items():
        with tab.expect_download() as saving:
            tab.get_by_role("button", name=kind, exact=True).last.click()
        saving.value.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_bytes().lower().lstrip().startswith(start.lower()), kind
    tab.context.close()
