"""A whole row or column of a composed map, written out: which source heads and which branches each value is made of.

Axes: N source head, P position along the line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from model import Capture
from model.mixing import BRANCHES, Mixing, base_matrix, gate_matrices, lowrank_matrices
from workbench.viewer import Labels, MapView, Panel, max_abs
from workbench.views import KINDS, UNITS, Selection

Along = Literal["row", "column"]


@dataclass(frozen=True)
class LineReading:
    """One line of a target head's map: the row of a query over its keys, or the column of a key over its queries.

    Attributes:
        positions: the keys (queries) on the line: those that the query sees (that see the key).
        by_source: raw[g] * M[g, head] of every source head, [N, P]; sums over N to composed.
        by_branch: sum over g of raw[g] * branch[g, head], by name, each [P]; they sum to composed.
        composed: the composed map itself, [P]. error: largest difference between it and the two sums.
    """

    positions: slice
    by_source: np.ndarray
    by_branch: dict[str, np.ndarray]
    composed: np.ndarray
    error: float


def read_line(run: Capture, at: Selection, kind: str, along: Along) -> LineReading:
    """Write out the row of at.query, or the column of at.key, of the target head at.head.

    Args:
        kind: "scores" or "pattern". along: "row" or "column".
    """
    window = run.cfg.keys_visible_in(at.layer)
    if along == "row":
        line = run.keys_seen(at.layer, at.query)
        queries, keys = slice(at.query, at.query + 1), line
    else:
        line = slice(at.key, len(run) if window is None else min(len(run), at.key + window))
        queries, keys = line, slice(at.key, at.key + 1)
    read = getattr(run, kind)
    raw_NP = read(at.layer, "raw", queries=queries, keys=keys).flatten(1).double()
    composed_P = read(at.layer, "composed", heads=at.head, queries=queries, keys=keys).flatten().double()
    columns = _columns(run.mixing(at.layer, KINDS[kind]).factors.cut(queries, keys), at.head)
    by_branch = {name: (raw_NP.T * column_PN).sum(1) for name, column_PN in columns.items()}
    whole_PN = sum(columns.values(), torch.zeros(raw_NP.shape[1], 1, dtype=torch.float64))
    by_source_NP = raw_NP * whole_PN.T
    sums = (by_source_NP.sum(0), torch.stack(list(by_branch.values())).sum(0))
    return LineReading(
        line, by_source_NP.numpy(), {name: part.numpy() for name, part in by_branch.items()}, composed_P.numpy(),
        max(float((total - composed_P).abs().max()) for total in sums),
    )  # fmt: skip


def _columns(mixing: Mixing, head: int) -> dict[str, Tensor]:
    """The target head's column of each branch, [P, N] or [1, N] where it is the same along the line."""
    base_N = base_matrix(mixing).double()[:, head]
    none = torch.zeros(1, len(base_N), dtype=torch.float64)
    columns = dict.fromkeys(BRANCHES, none) | {"base": base_N[None]}
    wide = mixing.map(Tensor.double)
    for side in ("query", "key"):
        if getattr(wide, f"{side}_gate") is not None:
            columns[f"{side}_lowrank"] = lowrank_matrices(wide, side)[0, :, :, head]
            columns[f"{side}_gate"] = gate_matrices(wide, side)[0, :, :, head]
    return columns


def line_view(run: Capture, at: Selection, kind: str, along: Along, line: LineReading) -> MapView:
    """The line as one map: a row for each source head, each branch, and the composed value that both sum to."""
    other = "key" if along == "row" else "query"
    names = [f"source {head}" for head in range(len(line.by_source))]
    rows = np.vstack(
        [line.by_source, np.full(line.by_source.shape[1], np.nan), *line.by_branch.values(), line.composed]
    )
    values = np.full((len(rows), len(run)), np.nan)
    values[:, line.positions] = rows
    labels = [*names, "—", *(name.replace("_", " ") for name in line.by_branch), "composed"]
    marked = at.key if along == "row" else at.query
    return MapView(
        panels=[Panel(f"{kind}, {along}: what it is made of", values, scale=max_abs(values), unit=UNITS[kind])],
        rows=Labels("part", labels), cols=Labels(other, run.str_tokens), selected=(len(labels) - 1, marked),
        absent="not on this line",
    )  # fmt: skip
