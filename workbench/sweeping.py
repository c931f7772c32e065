"""A sweep as a person asks for it: what it changes, over what, and how; and its result as panels to draw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from model import HookedDCFormer
from model.config import SITES, DCFormerConfig
from model.mixing import BRANCHES
from probes.attribution import agreement, attribute
from probes.examples import Example, task_examples, text_examples
from probes.mean_mixing import MeanMixing
from probes.sweeps import Cell, branch_cells, edge_cells, head_cells, position_cells, sweep
from probes.tasks import RULES, generate
from workbench.drafts import intervention
from workbench.jobs import Watch
from workbench.task_rows import RowName, pair_example

GRIDS = {
    "branch": "layer × site × branch",
    "edge": "layer × site × edge",
    "head": "layer × site × head",
    "position": "layer × site × position",
}
LEAST_TO_AGREE = 3
"""Cells that an agreement needs."""


@dataclass(frozen=True)
class SweepRequest:
    """Everything that decides a sweep's numbers, as plain values.

    model, prompt: names of what is run. grid: one of GRIDS. change: fields of every cell's intervention beside its
        place, as in drafts: mode, and the number that it takes. corpus: prompts that mode "mean" is taken over.
    layers, sites: to sweep; () = all. positions: of the position grid; () = all of the prompt.
    rows: generated held-out task rows to measure over; 0 = the prompt. seed: of the rows.
    pair: name of a task row's line, see RowName: measured over the answer there, against the corrupted row's; "" =
        none. The prompt is then the row up to the answer, and mode "patch" takes the corrupted row as its prompt.
    estimate: estimate by gradient too.
    """

    model: str
    prompt: str
    grid: str
    measure: str
    change: tuple[tuple[str, Any], ...] = (("mode", "zero"),)
    corpus: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    sites: tuple[str, ...] = ()
    positions: tuple[int, ...] = ()
    rows: int = 0
    seed: int = 0
    estimate: bool = False
    pair: str = ""

    def cells(self, cfg: DCFormerConfig, length: int, mean: MeanMixing | None = None) -> list[Cell]:
        """One cell for each place of the grid.

        Args:
            length: of the prompt in tokens. mean: over the corpus, for mode "mean".
        Raises:
            ValueError: what interventions refuse.
        """
        one = intervention(dict(self.change), mean)
        change = {"mode": one.mode} | {
            name: getattr(one, name)
            for name in ("amount", "value", "mean", "prompt", "seed")
            if name == "seed" or getattr(one, name) is not None
        }
        where: dict[str, Any] = {"layers": list(self.layers) or None, "sites": list(self.sites) or None}
        if self.grid == "position":
            return position_cells(cfg, self.positions or range(length), **where, **change)
        make = {"branch": branch_cells, "edge": edge_cells, "head": head_cells}[self.grid]
        return make(cfg, **where, **change)

    @property
    def rows_of_a_rule(self) -> int:
        """How many are generated of each rule, so that there are enough of all."""
        return -(-self.rows // len(RULES))

    def examples(self, model: HookedDCFormer) -> list[Example]:
        """The prompt, or the answer of a pair, or task rows, evenly from all rules."""
        if self.pair:
            return [pair_example(model, RowName.read(self.pair))]
        if not self.rows:
            return text_examples(model, [self.prompt])
        made = generate(None, self.rows_of_a_rule, self.seed, "held_out")
        return task_examples(model, [made[number * len(made) // self.rows] for number in range(self.rows)])


@dataclass(frozen=True)
class SweepResult:
    """table: what sweep gives, with a column `estimate` more where one was asked for. agreement: of the two, or None
    where there is no estimate or too few cells."""

    table: pd.DataFrame
    agreement: dict[str, float] | None


def run_sweep(
    request: SweepRequest, model: HookedDCFormer, mean: MeanMixing | None, out: Path, watch: Watch
) -> SweepResult:
    """Run what was asked for.

    Args:
        model: one that nothing else runs on meanwhile. out: keeps what is done, see sweep.
        watch: called between the pieces; what it raises ends the sweep.
    """
    examples = request.examples(model)
    cells = request.cells(model.cfg, len(model.to_tokens(request.prompt)[0]), mean)
    watch(0, 0)
    estimates = attribute(model, examples, cells, request.measure) if request.estimate else None
    watch(0, 0)
    table = sweep(model, examples, cells, [request.measure], out=out, watch=watch)
    if estimates is None:
        return SweepResult(table, None)
    labels = list(cells[0].labels)
    both = table.merge(estimates[[*labels, "estimate"]], on=labels)
    return SweepResult(both, agreement(estimates, table) if len(cells) >= LEAST_TO_AGREE else None)


# -- as panels -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SweepPanels:
    """panels: title -> [row, column], nan where there is no cell. rows, cols: their names; row_title, col_title."""

    panels: dict[str, np.ndarray]
    rows: list[str]
    cols: list[str]
    row_title: str
    col_title: str


AXES = {"branch": ("layer", "branch"), "edge": ("source", "target"), "head": ("layer", "head"),
        "position": ("layer", "position")}  # fmt: skip


def sweep_panels(table: pd.DataFrame, grid: str, column: str = "change") -> SweepPanels:
    """A sweep's column as matrices: one for each site, and for edges each layer, for heads each role.

    Args:
        table: as sweep gives it, of one measure. grid: one of GRIDS. column: "change" or "estimate".
    """
    row, col = AXES[grid]
    apart = [name for name in ("layer", "site", "role") if name in table and name not in (row, col)]
    rows, cols = (_in_order(table[name]) for name in (row, col))
    panels = {}
    for place, part in table.groupby(apart, sort=False):
        matrix = part.pivot(index=row, columns=col, values=column).reindex(index=rows, columns=cols)
        panels[_title(dict(zip(apart, place, strict=True)))] = matrix.to_numpy(dtype=float)
    return SweepPanels(panels, [str(r) for r in rows], [str(c).replace("_", " ") for c in cols], row, col)


def _in_order(values: pd.Series) -> list[Any]:
    known = [*BRANCHES, "all", *SITES]
    return sorted(values.unique(), key=lambda value: known.index(value) if isinstance(value, str) else value)


def _title(place: dict[str, Any]) -> str:
    words = [f"layer {place['layer']}"] if "layer" in place else []
    words += [f"M_{place['site']}"]
    words += [f"head as {place['role']}"] if "role" in place else []
    return ", ".join(words)
