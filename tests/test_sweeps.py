"""Measures and sweeps: each number is what the plain run gives, sharing and resuming change nothing."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from model import Engine, load_model
from probes import Intervention, MeanMixing
from probes.examples import Example, batches, task_examples, text_examples
from probes.interventions import Stacked
from probes.measures import MEASURES, measured
from probes.per_sequence import PerSequence
from probes.sweeps import Cell, branch_cells, edge_cells, head_cells, patch_cells, position_cells, sweep
from probes.tasks import generate, score
from tests.models import small_model, some_tokens

LENGTHS = (9, 6, 9, 11, 6)


@pytest.fixture(scope="module")
def model():
    return small_model("llama windows")


@pytest.fixture(scope="module")
def examples():
    """Two-token answers and one-token answers, some with a contrast."""
    made = []
    for number, length in enumerate(LENGTHS):
        ids = tuple(some_tokens(length, seed=number).tolist())
        made.append(Example(ids, (2, 3, length - 1), (0, 0, 1), (5, None, 7) if number else (None, None, None)))
    return made


def by_hand(model, example, change=None):
    """Each measure's values of one example, from its own forward pass."""
    tokens = torch.tensor([example.ids])
    with torch.no_grad():
        intact = model(tokens)[0]
        logits = intact if change is None else change.run(model, tokens)[0]
    before = torch.tensor(example.targets) - 1
    targets = tokens[0, list(example.targets)]
    right = dict.fromkeys(example.answers, True)
    for place, target, answer in zip(before, targets, example.answers, strict=True):
        right[answer] &= bool(logits[place].argmax() == target)
    kl = F.kl_div(logits[before].log_softmax(-1), intact[before].log_softmax(-1), log_target=True, reduction="none")
    differences = [
        float(logits[place, target] - logits[place, contrast])
        for place, target, contrast in zip(before, targets, example.contrasts, strict=True)
        if contrast is not None
    ]
    return {
        "loss": F.cross_entropy(logits[before], targets, reduction="none").tolist(),
        "kl": kl.sum(-1).tolist(),
        "logit_difference": differences,
        "accuracy": [float(value) for value in right.values()],
    }


@pytest.mark.parametrize("change", [None, Intervention(layers=[1], mode="identity")])
def test_measures_are_those_of_each_sequence_alone(model, examples, change):
    found = measured(model, examples, list(MEASURES), change, batch_size=3)
    for number, example in enumerate(examples):
        for name, values in by_hand(model, example, change).items():
            assert found[name].counts[number] == len(values)
            assert found[name].sums[number] == pytest.approx(sum(values), abs=1e-9)


def all_cells(model):
    mean = MeanMixing.over(model, [some_tokens(2, 7, seed=1)])
    return [
        *branch_cells(model.cfg, layers=[0, 2]),
        *edge_cells(model.cfg, layers=[1], sites=["post"], targets=[2]),
        *(Cell({**cell.labels, "frozen": True}, cell.change) for cell in
          branch_cells(model.cfg, sites=["pre"], branches=["key_lowrank"], mode="mean", mean=mean)),
        *position_cells(model.cfg, [2], layers=[-1]),
    ]  # fmt: skip


def test_a_sweep_gives_what_each_change_gives_alone(model, examples):
    cells = all_cells(model)
    table = sweep(Engine(model), examples, cells, list(MEASURES), batch_size=2, tokens_at_once=60)
    assert len(table) == len(cells) * len(MEASURES)
    for number, cell in enumerate(cells):
        alone = measured(model, examples, list(MEASURES), cell.change)
        for row in table.iloc[number * len(MEASURES) : (number + 1) * len(MEASURES)].itertuples():
            assert all(getattr(row, name) == value for name, value in cell.labels.items())
            assert row.value == pytest.approx(alone[row.measure].mean, abs=1e-9)
            assert row.change == pytest.approx(row.value - row.intact, abs=1e-12)
            assert row.low <= row.change + 1e-12
            assert row.high >= row.change - 1e-12
    assert set(table.sequences) == {4, 5}  # one example names no contrast
    assert table[table.measure == "kl"].intact.abs().max() < 1e-12


def test_cells_that_start_together_share_forward_passes(model, examples, monkeypatch):
    ran = []
    real = Stacked.tap
    monkeypatch.setattr(Stacked, "tap", lambda self, source: ran.append(len(self.changes)) or real(self, source))
    sweep(model, examples[:1], branch_cells(model.cfg), ["loss"], tokens_at_once=9 * 10)
    assert ran == [10, 10, 10]


def test_a_stopped_sweep_goes_on(model, examples, tmp_path):
    cells, out = branch_cells(model.cfg, layers=[1, 2]), tmp_path / "sweep.jsonl"
    whole = sweep(model, examples, cells, ["loss", "accuracy"], batch_size=2)

    class Enough(Exception):
        pass

    def stop(done, total):
        if done == 12:
            raise Enough

    with pytest.raises(Enough):
        sweep(model, examples, cells, ["loss", "accuracy"], batch_size=2, out=out, watch=stop)
    lines = out.read_text().splitlines(keepends=True)
    assert len(lines) == 14
    out.write_text("".join(lines)[:-9])  # killed while it wrote
    seen = []
    resumed = sweep(model, examples, cells, ["loss", "accuracy"], batch_size=2, out=out,
                    watch=lambda done, total: seen.append(done))  # fmt: skip
    pd.testing.assert_frame_equal(resumed, whole, rtol=1e-9)
    done = [(line["batch"], line["cell"]) for line in map(json.loads, out.read_text().splitlines()[1:])]
    assert len([key for key in done if key[1] != "intact"]) == 3 * len(cells) == len(seen) + 11
    seen.clear()
    sweep(model, examples, cells, ["loss", "accuracy"], batch_size=2, out=out, watch=lambda *_: seen.append(1))
    assert not seen  # nothing was left to run


def test_a_file_of_another_sweep_is_refused(model, examples, tmp_path):
    out = tmp_path / "sweep.jsonl"
    sweep(model, examples, branch_cells(model.cfg, layers=[2]), ["loss"], out=out)
    for other in (
        {"source": small_model("llama windows", seed=5)},
        {"examples": examples[1:]},
        {"cells": branch_cells(model.cfg, layers=[2], mode="scale", amount=0.5)},
        {"measures": ["kl"]},
    ):
        arguments = {"source": model, "examples": examples, "cells": branch_cells(model.cfg, layers=[2]),
                     "measures": ["loss"]} | other  # fmt: skip
        with pytest.raises(ValueError, match="holds another sweep"):
            sweep(**arguments, out=out)
    assert json.loads(out.read_text().splitlines()[0])["sweep"]


def test_patches_take_each_example_its_own_donor(model, examples):
    donors = [
        Example(tuple(some_tokens(len(e.ids), seed=20 + i).tolist()), e.targets, e.answers, e.contrasts)
        for i, e in enumerate(examples)
    ]
    table = sweep(model, examples, patch_cells(model.cfg, donors, layers=[1]), ["loss"], batch_size=4)
    for row in table.itertuples():
        losses = []
        for example, donor in zip(examples, donors, strict=True):
            change = Intervention(layers=[1], sites=[row.site], mode="patch", prompt=torch.tensor([donor.ids]))
            losses += by_hand(model, example, change)["loss"]
        assert row.value == pytest.approx(np.mean(losses), abs=1e-9)


def test_grids_name_every_cell_once(model):
    cfg = model.cfg
    assert len(branch_cells(cfg)) == 3 * 2 * 5
    assert len(edge_cells(cfg)) == 3 * 2 * 12
    assert len(edge_cells(cfg, own=True)) == 3 * 2 * 16
    assert len(edge_cells(small_model("groups").cfg)) == 3 * 2 * 4  # edges between groups do not exist
    assert len(head_cells(cfg)) == 3 * 2 * 4 * 2
    assert len(position_cells(cfg, range(5))) == 3 * 2 * 5


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator, hits = np.random.default_rng(0), 0
    for trial in range(200):
        counts = generator.integers(1, 9, 40).astype(float)
        own = generator.normal(0, 1, 40)  # tokens of a sequence share something
        sums = np.array([generator.normal(1 + o, 1, int(c)).sum() for o, c in zip(own, counts, strict=True)])
        low, high = PerSequence(sums, counts).interval(0.9, seed=trial)
        hits += low <= 1 <= high
    assert 165 <= hits <= 195  # 180 expected, +- 3 standard deviations and the bootstrap's optimism


def test_one_sequence_has_no_interval(model, examples):
    table = sweep(model, examples[:1], branch_cells(model.cfg, layers=[0]), ["loss"])
    assert table.low.isna().all()
    assert table.value.notna().all()


def test_task_accuracy_is_the_scorers():
    model, rows = load_model("demo/dcformer"), generate([0, 20, 44, 72], 2, 4, "held_out")
    found = measured(model, task_examples(model, rows), ["accuracy", "loss", "logit_difference"])
    table = score(model, rows).table().loc["overall"]
    assert found["accuracy"].mean == pytest.approx(table.exact_match)
    assert found["accuracy"].counts.sum() == table.answers
    assert found["loss"].mean == pytest.approx(table.nats_per_token, rel=1e-4)
    assert found["logit_difference"].counts.sum() <= table.answers


def test_texts_count_every_token_but_the_first(model):
    examples = text_examples(model, some_tokens(2, 7))
    found = measured(model, examples, ["loss"])["loss"]
    with torch.no_grad():
        assert found.mean == pytest.approx(float(model(some_tokens(2, 7), return_type="loss")), abs=1e-9)


def test_batches_hold_every_example_once(examples):
    for equal in (False, True):
        groups = list(batches(examples, 3, "cpu", equal_length=equal))
        assert sorted(number for batch in groups for number in batch.numbers) == list(range(5))
        assert all((batch.mask is None) for batch in groups) == equal


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m, e: sweep(m, [], branch_cells(m.cfg)), "0 examples and 30 cells were given"),
        (lambda m, e: sweep(m, e, []), "5 examples and 0 cells"),
        (lambda m, e: sweep(m, e, branch_cells(m.cfg), ["lose"]), "Unknown measure 'lose'. Choose from loss, kl"),
        (lambda m, e: sweep(m, e, branch_cells(m.cfg), []), "No measure was named"),
        (lambda m, e: sweep(m, e, branch_cells(m.cfg, layers=[7])), "Layer 7 does not exist"),
        (lambda m, e: sweep(m, e, branch_cells(m.cfg, branches=["gate"])), "Unknown branch 'gate'"),
        (lambda m, e: sweep(m, e, branch_cells(m.cfg, layers=[0]) * 2), "Two cells have the labels"),
        (lambda m, e: sweep(m, e, [Cell({"change": 1}, Intervention())]), "Labels named change are columns"),
        (lambda m, e: sweep(m, e, position_cells(m.cfg, [8], layers=[0])), "Position 8 does not exist"),
        (lambda m, e: sweep(m, e[:1], branch_cells(m.cfg), ["logit_difference"]), "name no contrast tokens"),
        (lambda m, e: sweep(small_model("plain"), e, branch_cells(m.cfg)), "composition is off"),
        (lambda m, e: measured(m, []), "No examples were given"),
        (lambda m, e: text_examples(m, []), "No prompts were given"),
        (lambda m, e: text_examples(m, some_tokens(2, 1)), "Prompt 0 has 1 token"),
        (lambda m, e: task_examples(m, []), "No task rows were given"),
    ],
)
def test_what_cannot_be_measured_is_refused(model, examples, make, message):
    with pytest.raises(ValueError, match=message):
        make(model, examples)
