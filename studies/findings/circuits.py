"""Task circuits through named virtual heads: found by a sweep, confirmed on new rows by ablation and by patching.

For a rule in its two wordings: the virtual heads g->h (edges of the post site) whose cut costs most are found on rows
of the first wording; on other rows of both they are cut together, beside as many edges drawn at random. Then only the
part that the token before an answer contributes to them is taken away, or put there from the same answer in the other
wording: if it serves there as well, the circuit belongs to the question and not to the wording.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any

import pandas as pd
import torch

from model import Engine, HookedDCFormer
from probes import Intervention
from probes.examples import Example, task_examples
from probes.interventions import Change
from probes.sweeps import Cell, edge_cells, sweep
from probes.tasks.pairs import paired_rows

RULES = {"person and thing": 0, "capability": 32, "time just before": 48}
FOUND_ON, CONFIRMED_ON, VIRTUAL_HEADS, DRAWS = 6, 16, 8, 5
FOUND_SEED, CONFIRMED_SEED = 21, 22
QUERY_PART = ("query_lowrank", "query_gate")
Edge = tuple[int, int, int]
"""Layer, source head, target head of a virtual head."""


def circuit(model: HookedDCFormer, task_id: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(the sweep that found the virtual heads, the table that confirms them)."""
    engine = Engine(model)
    rows = [first for first, _ in paired_rows(task_id, FOUND_ON, FOUND_SEED, "held_out")]
    cells = edge_cells(model.cfg, sites=["post"])
    swept = sweep(engine, task_examples(model, rows), cells, ["loss"], progress=True)
    swept = swept.sort_values("change", ascending=False)
    edges = [(int(row.layer), int(row.source), int(row.target)) for row in swept.head(VIRTUAL_HEADS).itertuples()]
    pairs = paired_rows(task_id, CONFIRMED_ON, CONFIRMED_SEED, "held_out")
    wordings = [task_examples(model, [pair[side] for pair in pairs]) for side in (0, 1)]
    tables = [
        sweep(engine, wordings[side], confirming_cells(model, edges, wordings[side], wordings[1 - side]),
              ["loss", "accuracy"], batch_size=1, progress=True).assign(task=task_id + side)
        for side in (0, 1)
    ]  # fmt: skip
    return swept, pd.concat(tables)


def confirming_cells(
    model: HookedDCFormer, edges: Sequence[Edge], examples: Sequence[Example], others: Sequence[Example]
) -> list[Cell]:
    """Ablations of the virtual heads and their controls; others: the same rows in the other wording."""
    heads = range(model.cfg.n_heads)
    every = itertools.product(range(model.cfg.n_layers), heads, heads)
    others_edges = [edge for edge in every if edge[1] != edge[2] and edge not in edges]
    cells = [Cell({"what": "cut", "draw": -1}, _all(edges, mode="identity"))]
    for edge in edges:
        cells.append(Cell({"what": f"cut {named(edge)}", "draw": -1}, _all([edge], mode="identity")))
    for draw in range(DRAWS):
        drawn = random.Random(draw).sample(others_edges, len(edges))
        cells.append(Cell({"what": "cut others", "draw": draw}, _all(drawn, mode="identity")))

    def at_answers(shift: int | None) -> Callable[[tuple[int, ...]], Change]:
        """The query part before answers taken away (None), or from the other wording's token `shift` further on."""

        def of(numbers: tuple[int, ...]) -> Change:
            here, other = examples[numbers[0]], others[numbers[0]]
            where: dict[str, Any] = {"positions": _before_answers(here), "branches": QUERY_PART}
            if shift is None:
                return _all(edges, mode="zero", **where)
            taken = [place + shift for place in _before_answers(other)]
            return _all(edges, mode="patch", prompt=torch.tensor([other.ids]), prompt_positions=taken, **where)

        return of

    parts = {"gone": None, "of the other wording": 0, "of the token before": -1}
    return cells + [Cell({"what": f"query part {name}", "draw": -1}, at_answers(at)) for name, at in parts.items()]


def named(edge: Edge) -> str:
    return f"L{edge[0]} {edge[1]}->{edge[2]}"


def _all(edges: Sequence[Edge], **change: Any) -> Change:
    return reduce(add, (
        Intervention(layers=[layer], sites=["post"], sources=[source], targets=[target], **change)
        for layer, source, target in edges
    ))  # fmt: skip


def _before_answers(example: Example) -> list[int]:
    """Positions from which the first token of each answer is predicted."""
    firsts = {answer: place for place, answer in reversed(list(zip(example.targets, example.answers, strict=True)))}
    return [place - 1 for place in firsts.values()][::-1]
