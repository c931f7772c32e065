"""A sweep over a clean and a corrupted task row: its numbers are the library's, on the page and in its link."""

from __future__ import annotations

import pytest
import torch
from streamlit.testing.v1 import AppTest

from model import load_model
from probes import Intervention
from tests.browser_tools import ROOT
from workbench.sweeping import SweepRequest, run_sweep
from workbench.task_rows import RowName, pair_of

NAME = RowName(12, line=5)


@pytest.fixture(scope="module")
def model():
    return load_model("demo/dcformer")


def request(model, grid: str, **more) -> SweepRequest:
    pair = pair_of(NAME, model.tokenizer)
    change = (("mode", "patch"), ("prompt", pair.corrupted.plain_text))
    return SweepRequest(
        "demo/dcformer", pair.clean.plain_text, grid, "logit_difference", change, pair=str(NAME), **more
    )


def difference(model, logits_TV: torch.Tensor) -> float:
    """Logit of the clean answer minus that of the corrupted one, where the clean row is answered."""
    pair = pair_of(NAME, model.tokenizer)
    clean, other = (model.to_tokens(row.plain_text)[0] for row in pair)
    start = len(model.to_tokens(pair.clean.plain_text[: pair.clean.answers[-1].start].rstrip(" "))[0])
    return float(logits_TV[start - 1, clean[start]] - logits_TV[start - 1, other[start]])


def test_each_cell_is_a_patch_from_the_corrupted_row(model, tmp_path):
    asked = request(model, "branch", layers=(1, 3))
    found = run_sweep(asked, model, None, tmp_path / "kept.jsonl", lambda done, total: None).table
    pair = pair_of(NAME, model.tokenizer)
    with torch.no_grad():
        intact = difference(model, model(pair.clean.plain_text)[0])
    assert len(found) == 2 * 2 * 5
    for cell in found.itertuples():
        branches = None if cell.branch == "all" else [cell.branch]
        patch = Intervention(
            layers=[cell.layer], sites=[cell.site], branches=branches, mode="patch", prompt=pair.corrupted.plain_text
        )
        with torch.no_grad():
            changed = difference(model, patch.run(model, pair.clean.plain_text)[0])
        assert cell.intact == pytest.approx(intact, abs=2e-3)
        assert cell.change == pytest.approx(changed - intact, abs=2e-3)
    assert found.change.abs().max() > 0.5  # and something passes there


@pytest.mark.parametrize("grid", ["edge", "head", "position"])
def test_every_grid_can_be_patched(model, tmp_path, grid):
    length = len(model.to_tokens(pair_of(NAME, model.tokenizer).clean.plain_text)[0])
    last = tuple(range(length - 9, length - 2))  # what stands before the changed line is the same in both rows
    asked = request(model, grid, layers=(2,), positions=last if grid == "position" else ())
    found = run_sweep(asked, model, None, tmp_path / "kept.jsonl", lambda done, total: None).table
    assert found.change.notna().all()
    assert found.change.abs().max() > 0


def test_the_corrupted_rows_whole_mixing_and_content_give_its_answer(model):
    pair = pair_of(NAME, model.tokenizer)
    everything = Intervention(mode="patch", what=["mixing", "q", "k", "v"], prompt=pair.corrupted.plain_text)
    with torch.no_grad():
        assert difference(model, model(pair.clean.plain_text)[0]) > 0
        assert difference(model, everything.run(model, pair.clean.plain_text)[0]) < 0


# -- on the page -------------------------------------------------------------------------------------


def opened(pair: str) -> AppTest:
    page = AppTest.from_file(str(ROOT / "workbench/pages/intervene.py"), default_timeout=120)
    page.query_params["pair"], page.query_params["section"] = pair, "sweep"
    return page.run()


def test_a_link_with_a_pair_opens_the_sweep_and_its_numbers_are_the_librarys(model, tmp_path):
    page = opened(str(NAME))
    page.multiselect(key="sweep layers").set_value([1]).run()
    page.button(key="run sweep").click().run()
    assert not page.error
    page.session_state.sweep.job.wait(120)
    page.run()
    assert not page.exception
    assert page.session_state.sweep.request == request(model, "branch", layers=(1,))
    truth = run_sweep(request(model, "branch", layers=(1,)), model, None, tmp_path / "kept", lambda *_: None).table
    shown = page.dataframe[0].value.sort_index()
    assert shown.change.tolist() == pytest.approx(truth.change.tolist(), abs=1e-5)
    assert page.query_params["pair"] == str(NAME)


def test_leaving_the_pair_gives_the_prompt_back():
    page = opened(str(NAME))
    assert page.selectbox(key="sweep branch of pair mode").value == "patch"
    page.button(key="leave pair").click().run()
    assert not page.exception
    assert "patch" not in page.selectbox(key="sweep branch mode").options
    assert "pair" not in page.query_params


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("<i>12</i>", "names no task row"),
        (str(RowName(12, line=1)), "has no bracketed answer"),
        (str(RowName(99)), "There is no task 99"),
    ],
)
def test_a_pair_that_cannot_be_made_is_answered_and_can_be_left(said, message):
    page = opened(said)
    assert not page.exception
    assert message in page.error[0].value.replace("\\", "")
    page.button(key="leave pair").click().run()
    assert not page.error
    assert page.button(key="run sweep")
