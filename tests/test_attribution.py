"""Gradient attribution is the derivative of the measure along the change."""

import pandas as pd
import pytest
import torch

from model.mixing import BRANCHES
from probes import Intervention, MeanMixing, uncomposed_twin
from probes.attribution import agreement, attribute, mixing_gradients
from probes.examples import Example, batches
from probes.measures import MEASURES, measured
from probes.sweeps import Cell, branch_cells, edge_cells, patch_cells, sweep
from tests.models import small_model, some_tokens


def some_examples():
    return [
        Example(tuple(some_tokens(length, seed=length).tolist()), (2, 5, length - 1), (0, 1, 2), (3, 4, None))
        for length in (9, 7, 10)
    ]


def slope(model, examples, measure, make, step=1e-6):
    """Derivative of the measure along make(dose), by a central difference."""
    high, low = (measured(model, examples, [measure], make(step * sign))[measure].mean for sign in (1, -1))
    return (high - low) / (2 * step)


@pytest.mark.parametrize("variant", ["llama windows", "groups", "static and dynamic", "key side", "rank 3"])
@pytest.mark.parametrize("measure", ["loss", "logit_difference"])
def test_an_estimate_is_the_derivative_along_the_change(variant, measure):
    model, examples = small_model(variant), some_examples()
    where = [
        {"layers": [1], "sites": ["post"]},
        {"layers": [0], "branches": ["key_lowrank"]},
        {"layers": [2], "sites": ["pre"], "sources": [1], "targets": [0]},
        {"positions": [2, 4]},
        {"layers": [0], "branches": ["base"], "targets": [3]},
    ]
    cells = [Cell({"cell": number}, Intervention(**fields)) for number, fields in enumerate(where)]
    found = attribute(model, examples, cells, measure, batch_size=2)
    for fields, estimate in zip(where, found.estimate, strict=True):
        # a dose of 1 - d takes d times the branches away
        truth = slope(model, examples, measure, lambda d, f=fields: Intervention(mode="scale", amount=1 - d, **f))
        assert estimate == pytest.approx(truth, rel=1e-5, abs=1e-8)


def test_estimates_add_up():
    """First order is linear: the twin's estimate is the sum over all edges, and over all branches."""
    model, examples = small_model("llama windows"), some_examples()
    edges = edge_cells(model.cfg, own=True)
    branches = branch_cells(model.cfg, branches=["query_lowrank", "query_gate", "key_lowrank", "key_gate"])
    twin = attribute(model, examples, [Cell({"all": 1}, uncomposed_twin())]).estimate[0]
    assert attribute(model, examples, edges).estimate.sum() == pytest.approx(twin, rel=1e-9)
    assert attribute(model, examples, branches).estimate.sum() == pytest.approx(twin, rel=1e-9)


def test_freezing_a_branch_is_estimated_through_base_and_branch():
    model, examples = small_model("llama windows"), some_examples()
    mean = MeanMixing.over(model, [some_tokens(2, 7, seed=1)])
    frozen = attribute(model, examples, branch_cells(model.cfg, layers=[1], mode="mean", mean=mean))
    (batch,) = batches(examples, 3, "cpu")
    gradients = mixing_gradients(model, batch, MEASURES["loss"])
    row = frozen[(frozen.site == "post") & (frozen.branch == "key_lowrank")].estimate.item()
    constant = torch.einsum(
        "btnm,nm->", gradients.gradients[1, "post", "query"], mean.matrices[1, "post", "key_lowrank"]
    )
    gone = attribute(model, examples, branch_cells(model.cfg, layers=[1], sites=["post"], branches=["key_lowrank"]))
    assert row == pytest.approx(gone.estimate.item() + float(constant) / 9, rel=1e-9)


def test_small_changes_are_estimated_well_and_agreement_says_so():
    model, examples = small_model("llama windows"), some_examples()
    gentle = edge_cells(model.cfg, mode="scale", amount=0.999)
    estimates, swept = attribute(model, examples, gentle), sweep(model, examples, gentle, ["loss"])
    found = agreement(estimates, swept)
    assert found["cells"] == 72
    assert min(found["pearson"], found["spearman"], found["ratio"]) > 0.999
    assert found["top"] == 1.0
    swept["change"] = -swept["change"]
    assert agreement(estimates, swept)["sign"] == 0.0


def test_what_cannot_be_estimated_is_refused():
    model, examples = small_model("llama windows"), some_examples()
    cells = branch_cells(model.cfg, layers=[0])
    for measure in ("kl", "accuracy"):
        with pytest.raises(ValueError, match="has no useful gradient"):
            attribute(model, examples, cells, measure)
    with pytest.raises(ValueError, match="0 examples and 10 cells"):
        attribute(model, [], cells)
    content = Intervention(mode="patch", prompt=some_tokens(1, 9), what=["v"])
    for cell in (Cell({"a": 1}, content), patch_cells(model.cfg, examples)[0]):
        with pytest.raises(ValueError, match="changes more than mixing"):
            attribute(model, examples, [cell])
    with pytest.raises(ValueError, match="no query_gate"):
        attribute(small_model("key side"), examples, [Cell({"a": 1}, Intervention(branches=[BRANCHES[2]]))])
    with pytest.raises(ValueError, match="0 cells are in both tables"):
        agreement(attribute(model, examples, cells), pd.DataFrame({**cells[0].labels, "measure": ["kl"], "change": 0}))
