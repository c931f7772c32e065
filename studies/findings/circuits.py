"""Task circuits through named virtual heads: found by a sweep, confirmed on new rows by ablation and by patching.

For a rule in its two wordings: the virtual heads g->h (edges of the post site) whose cut costs most are found on rows
of the first wording; on other rows of both they are cut together, beside as many edges drawn at random. Then only what
single tokens contribute to them is taken away, or put there from the other wording: the key part of the facts' words,
names and full stops, and the query part of the name asked about and of the token before the answer. If the same token's
part serves there as well, and another's does not, the circuit belongs to what is said and not to how.
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
from probes.examples import task_examples
from probes.interventions import Change
from probes.sweeps import Cell, edge_cells, sweep
from probes.tasks.pairs import paired_rows
from studies.findings.roles import RowTokens, row_tokens

RULES = {"person and thing": 0, "capability": 32, "time just before": 48}
FOUND_ON, CONFIRMED_ON, VIRTUAL_HEADS, DRAWS = 6, 16, 8, 5
FOUND_SEED, CONFIRMED_SEED = 21, 22
Edge = tuple[int, int, int]
"""Layer, source head, target head of a virtual head."""
SIDES = {"word": "key", "name": "key", "stop": "key", "asked": "query", "before": "query"}
"""Role -> the side of the mixing that its tokens are on where it is looked at."""
Take = Callable[[RowTokens, str], list[int]]
"""(the other wording's tokens, role) -> which of them a part is taken from."""


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
    tokens = [[row_tokens(model, pair[side]) for pair in pairs] for side in (0, 1)]
    tables = []
    for side, examples in enumerate(wordings):
        cells = cut_cells(model, edges) + part_cells(edges, tokens[side], tokens[1 - side])
        table = sweep(engine, examples, cells, ["loss", "accuracy"], batch_size=1, progress=True)
        tables.append(table.assign(task=task_id + side))
    return swept, pd.concat(tables)


def cut_cells(model: HookedDCFormer, edges: Sequence[Edge]) -> list[Cell]:
    """The virtual heads cut together and singly, and as many others drawn at random."""
    heads = range(model.cfg.n_heads)
    every = itertools.product(range(model.cfg.n_layers), heads, heads)
    others_edges = [edge for edge in every if edge[1] != edge[2] and edge not in edges]
    cells = [Cell({"what": "cut", "draw": -1}, _all(edges, mode="identity"))]
    for edge in edges:
        cells.append(Cell({"what": f"cut {named(edge)}", "draw": -1}, _all([edge], mode="identity")))
    for draw in range(DRAWS):
        drawn = random.Random(draw).sample(others_edges, len(edges))
        cells.append(Cell({"what": "cut others", "draw": draw}, _all(drawn, mode="identity")))

    return cells


def named(edge: Edge) -> str:
    return f"L{edge[0]} {edge[1]}->{edge[2]}"


# -- what single tokens contribute -------------------------------------------------------------------------


def part_cells(edges: Sequence[Edge], here: Sequence[RowTokens], there: Sequence[RowTokens]) -> list[Cell]:
    """What tokens of one role contribute to the virtual heads, gone or taken from the other wording of the same row.

    Taken from the same token, or from another of its role (the next fact's, the next question's).

    Args:
        here, there: each row's tokens in the wording that runs and in the other.
    """
    sources = {"gone": None, "same": _same, "another": _another}
    cells = [_part_cell(edges, here, there, role, *source) for role in SIDES for source in sources.items()]
    return [*cells, _part_cell(edges, here, there, "other", "gone", None)]


def _part_cell(
    edges: Sequence[Edge], here: Sequence[RowTokens], there: Sequence[RowTokens], role: str, source: str,
    take: Take | None,
) -> Cell:  # fmt: skip
    side = SIDES.get(role, "key")
    branches = (f"{side}_lowrank", f"{side}_gate")

    def change(numbers: tuple[int, ...]) -> Change:
        mine, theirs = here[numbers[0]], there[numbers[0]]
        where: dict[str, Any] = {"branches": branches, "positions": mine.roles.get(role, mine.other)}
        if take is None:
            return _all(edges, mode="zero", **where)
        return _all(
            edges, mode="patch", prompt=torch.tensor([theirs.ids]), prompt_positions=take(theirs, role), **where
        )

    return Cell({"what": f"{side} part of {role}: {source}", "draw": -1}, change)


def _same(tokens: RowTokens, role: str) -> list[int]:
    return tokens.roles[role]


def _another(tokens: RowTokens, role: str) -> list[int]:
    first, *rest = tokens.roles[role]
    return [*rest, first]


def _all(edges: Sequence[Edge], **change: Any) -> Change:
    return reduce(add, (
        Intervention(layers=[layer], sites=["post"], sources=[source], targets=[target], **change)
        for layer, source, target in edges
    ))  # fmt: skip
