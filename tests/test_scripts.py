"""The script that a page offers, run in a fresh process, gives the numbers that the page shows."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from model import capture, load_model
from probes import Intervention
from probes.interventions import to_json
from tests.browser_tools import ROOT
from workbench import views
from workbench.head_tables import RandomTokens
from workbench.lines import read_line
from workbench.scripts import explore_script, heads_script, intervene_script, sweep_script, virtual_heads_script
from workbench.session import Workbench
from workbench.sweeping import SweepRequest
from workbench.task_rows import RowName, pair_of

MODEL = "demo/dcformer"
PROMPT = '< Mary has an "apple". John\'s violin \\ \n>. Who has'
CHANGE = to_json(Intervention(layers=[1, 2], sites=["post"], mode="zero"))


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench()


def printed(script: str) -> dict:
    """What a script prints, run where nothing of this process is known."""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("kind", "change"), [("scores", ""), ("pattern", CHANGE)])
def test_explore(bench, kind, change):
    name = bench.under(MODEL, change)
    run = bench.capture(name, PROMPT)
    at = views.first_selection(run)
    cell, found = views.read_cell(run, at, kind), printed(explore_script(*bench.parts(name), PROMPT, at, kind))
    for what in ("raw", "composed", "matrix", "parts"):
        np.testing.assert_allclose(found[what], getattr(cell, what), atol=1e-6)
    for branch, part in cell.branches.items():
        np.testing.assert_allclose(found["branches"][branch], part, atol=1e-6)
    assert found["row_sum"] == pytest.approx(cell.row_sum, abs=1e-5)
    assert found["row_sum"] == pytest.approx(read_line(run, at, "pattern", "row").composed.sum(), abs=1e-5)


def test_intervene(bench):
    reading = bench.change_reading(MODEL, PROMPT, CHANGE)
    found = printed(intervene_script(MODEL, PROMPT, CHANGE))
    np.testing.assert_allclose(found["kl"], reading.kl, atol=1e-6)
    np.testing.assert_allclose(found["loss_intact"], reading.loss_intact, atol=1e-6)
    np.testing.assert_allclose(found["loss_changed"], reading.loss_changed, atol=1e-6)


def test_virtual_heads(bench):
    run = bench.capture(MODEL, PROMPT)
    query, token, contrast = len(run) - 1, 40, 41
    truth = bench.attributions(MODEL, PROMPT, query, token, contrast)
    layer, source, target = truth.largest
    script = virtual_heads_script(MODEL, "", PROMPT, query, (token, contrast), truth.largest)
    found = printed(script)
    largest = pd.DataFrame(found["largest"])
    pd.testing.assert_frame_equal(largest, truth.table.head(20).reset_index(drop=True), check_dtype=False, rtol=1e-4)
    for one, total in found["sums"].items():
        assert total == pytest.approx(truth.sum_of_pieces(int(one)), abs=1e-4)
    np.testing.assert_allclose(found["mixing"], run.mixing(layer).row(query)[:, source, target], atol=1e-6)


PAIR = RowName(12, line=5)
SWEEPS = {
    "branches, estimated": {"grid": "branch", "measure": "loss", "layers": (1, 3), "estimate": True},
    "edges of one site": {"grid": "edge", "measure": "kl", "layers": (2,), "sites": ("pre",),
                          "change": (("mode", "scale"), ("amount", 0.25))},
    "heads, frozen": {"grid": "head", "measure": "loss", "layers": (0,), "change": (("mode", "mean"),),
                      "corpus": (PROMPT, "Rose has a wolf.")},
    "all positions": {"grid": "position", "measure": "loss", "layers": (3,), "sites": ("post",),
                      "change": (("mode", "random"), ("seed", 5))},
    "some positions": {"grid": "position", "measure": "kl", "layers": (1,), "positions": (2, 7)},
    "task rows": {"grid": "branch", "measure": "accuracy", "layers": (3,), "rows": 3, "seed": 4},
    "a pair": {"grid": "branch", "measure": "logit_difference", "layers": (2,), "pair": str(PAIR)},
}  # fmt: skip


@pytest.mark.parametrize("name", list(SWEEPS))
def test_sweep(bench, tmp_path, name):
    asked = {"prompt": PROMPT} | SWEEPS[name]
    if "pair" in asked:
        rows = pair_of(PAIR, bench.model(MODEL).tokenizer)
        change = (("mode", "patch"), ("prompt", rows.corrupted.plain_text))
        asked |= {"prompt": rows.clean.plain_text, "change": change}
    request = SweepRequest(MODEL, **asked)
    job = bench.start_sweep(request, tmp_path / "kept.jsonl")
    job.wait(120)
    shown = job.value().table
    found = pd.DataFrame(printed(sweep_script(request))["table"])
    pd.testing.assert_frame_equal(found, shown.reset_index(drop=True), check_dtype=False, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "kind", "change"),
    [(PROMPT, "heads", CHANGE), (RandomTokens(9, 2, 5), "heads", ""), (PROMPT, "raw to composed", ""),
     (PROMPT, "diversity", ""), (RandomTokens(9, 2, 5), "mixing", CHANGE)],
)  # fmt: skip
def test_heads(bench, text, kind, change):
    name = bench.under(MODEL, change)
    shown = bench.head_table(name, text, kind).table
    found = pd.DataFrame(printed(heads_script(*bench.parts(name), text, kind))["table"])
    index = [column for column in ("layer", "head", "stage", "site") if column in shown]
    wide = found.pivot(index=index, columns="metric", values="value").reset_index()
    both = shown.merge(wide, on=index, suffixes=("", " of script"))
    assert len(both) == len(shown)
    for metric in wide.columns.difference(index):
        np.testing.assert_allclose(both[metric], both[f"{metric} of script"], rtol=1e-5, atol=1e-7)


# -- a change in place -------------------------------------------------------------------------------


def test_a_name_under_a_change_answers_as_the_changed_model_on_every_question(bench):
    name, model = bench.under(MODEL, CHANGE), load_model(MODEL)
    part = Intervention(layers=[1, 2], sites=["post"], mode="zero")
    with part.applied(model):
        truth = capture(model, PROMPT)
    run = bench.capture(name, PROMPT)
    assert bool((run.logits == truth.logits).all())
    assert bool((bench.maps(name, PROMPT, 2, 3)["pattern_composed"] == truth.pattern(2, heads=3)[0]).all())
    assert not bool((run.logits == bench.capture(MODEL, PROMPT).logits).all())
    assert bench.parts(name) == (MODEL, CHANGE)
    assert bench.under(MODEL, "") == MODEL


def test_a_change_that_the_model_cannot_have_is_refused(bench):
    with pytest.raises(ValueError, match="Layer 99 does not exist"):
        bench.under(MODEL, to_json(Intervention(layers=[99], mode="zero")))
    with pytest.raises(ValueError):
        bench.under(MODEL, "{")
