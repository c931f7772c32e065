"""What a capture looks like: overview, maps and mixing matrix of a chosen layer, head, query and key.

Shared by the page in the browser, the report and notebooks, so that all three show the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from model import Capture
from model.config import SITES
from model.site_mixing import one_index
from workbench.viewer import Cell, Labels, MapView, Panel, Window, block_around, max_abs
from workbench.viewer.encoding import reduce_in_parts

KINDS = {"scores": "pre", "pattern": "post"}
"""The two kinds of map and the site that turns raw into composed."""
UNITS = {"scores": "score, before softmax", "pattern": "weight"}
MEANINGS = {
    "scores": "Scores are what enters the softmax: q·k/√d_head (raw), then mixed across heads by M_pre (composed).",
    "pattern": "Pattern is what multiplies the values: softmax of the composed scores (raw), then mixed across heads "
    "by M_post (composed). Composed rows are signed and need not sum to 1.",
}


@dataclass(frozen=True)
class Selection:
    """What is being looked at. A head is a target head: the one whose composed map is shown."""

    layer: int
    head: int
    query: int
    key: int


@dataclass(frozen=True)
class CellReading:
    """The numbers of one (query, key) cell of one kind of map.

    Attributes:
        raw: value of every head before mixing, [H]. composed: after, [H].
        matrix: M(query, key), [H, H], source x target. branches: its five summands by name.
        parts: raw[g] * matrix[g, head] of every source head g, [H]; sums to composed[head].
        branch_error: largest difference between matrix and the sum of the branches.
        composed_error: difference between composed[head] and the sum of parts.
        row_sum: sum of the composed row of the head over all keys (1 only where nothing is mixed).
        visible: False where the query may not see the key; composed is then what mixing alone would give.
    """

    raw: np.ndarray
    composed: np.ndarray
    matrix: np.ndarray
    branches: dict[str, np.ndarray]
    parts: np.ndarray
    branch_error: float
    composed_error: float
    row_sum: float
    visible: bool


def distances(run: Capture) -> dict[str, Tensor]:
    """By site: how far each head's mixing is from identity, [layer, head] (see SiteMixing.distance_from_identity)."""
    layers = sorted(run.layers)
    return {site: torch.stack([run.mixing(layer, site).distance_from_identity() for layer in layers]) for site in SITES}


def first_selection(run: Capture, by_site: Mapping[str, Tensor] | None = None) -> Selection:
    """Where to look first: the most mixed head of the last token, at the key that it weighs most.

    Args:
        by_site: what distances(run) gives, if it is known already.
    """
    total = sum((distances(run) if by_site is None else by_site).values())
    layer, head = divmod(int(total.argmax()), run.cfg.n_heads)  # type: ignore[union-attr]
    query = len(run) - 1
    row = run.pattern(layer, "composed", heads=head, queries=query)[0, 0]
    return Selection(layer, head, query, int(row.abs().argmax()))


def chosen_selection(
    run: Capture, layer: int | None = None, head: int | None = None, query: int | None = None, key: int | None = None
) -> Selection:
    """The given places, checked, and for the rest where first_selection would look.

    Raises:
        ValueError: a layer, head or position that does not exist.
    """
    limits = {"layer": run.cfg.n_layers, "head": run.cfg.n_heads, "query": len(run), "key": len(run)}
    given = {"layer": layer, "head": head, "query": query, "key": key}
    chosen = {name: one_index(at, limits[name], name) for name, at in given.items() if at is not None}
    first = replace(first_selection(run), **chosen)
    if key is None:
        row = run.pattern(first.layer, "composed", heads=first.head, queries=first.query)[0, 0]
        first = replace(first, key=int(row.abs().argmax()))
    return first


def overview(run: Capture, selection: Selection, by_site: Mapping[str, Tensor] | None = None) -> MapView:
    """Layer x head, one panel a site, coloured by the distance of the head's mixing from identity.

    Args:
        by_site: what distances(run) gives, if it is known already.
    """
    by_site = distances(run) if by_site is None else by_site
    scale = max_abs(*(values.numpy() for values in by_site.values()))
    panels = [
        Panel(f"M_{site}: distance from identity", values.numpy(), scale=scale, unit="rms distance", signed=False)
        for site, values in by_site.items()
    ]
    layers, heads = [f"L{layer}" for layer in sorted(run.layers)], [f"H{head}" for head in range(run.cfg.n_heads)]
    return MapView(
        panels=panels, rows=Labels("layer", layers), cols=Labels("head", heads),
        selected=(layers.index(f"L{selection.layer}"), selection.head),
    )  # fmt: skip


def head_maps(
    maps: Mapping[str, Tensor], run: Capture, selection: Selection, kind: str, window: Window | None = None
) -> MapView:
    """Raw, composed and difference of one head's map, on one scale centred on 0.

    Args:
        maps: the head's four maps, each [query, key], as Capture.maps gives them.
        kind: "scores" or "pattern".
        window: ((first query, end), (first key, end)) to show at full detail; None = all of it.
    """
    triple = _triple(maps, kind, slice(None), slice(None))
    rows, cols = window or ((0, len(run)), (0, len(run)))
    shown = triple[:, slice(*rows), slice(*cols)]
    return _head_view(shown, run, selection, kind, window, max_abs(triple))


def reduced_head_maps(
    maps: Mapping[str, Tensor], run: Capture, selection: Selection, kind: str, window: Window | None = None,
    scale: float | None = None,
) -> MapView:  # fmt: skip
    """head_maps with values no more than are drawn, which encode to the same bytes; whole maps are never copied.

    Args:
        scale: at the end of the colours: the largest magnitude of the whole map, which a window does not know.
    """
    rows, cols = window or ((0, len(run)), (0, len(run)))

    def read(some: slice) -> np.ndarray:
        return _triple(maps, kind, slice(rows[0] + some.start, rows[0] + some.stop), slice(*cols))

    shown = reduce_in_parts(read, rows[1] - rows[0])
    return _head_view(shown, run, selection, kind, (rows, cols), max_abs(shown) if scale is None else scale)


def _triple(maps: Mapping[str, Tensor], kind: str, queries: slice, keys: slice) -> np.ndarray:
    """Part of raw, composed and composed - raw, [3, query, key]; nan where nothing may be seen."""
    raw, composed, scores = (
        maps[name][queries, keys].numpy() for name in (f"{kind}_raw", f"{kind}_composed", "scores_composed")
    )
    triple = np.full((3, *raw.shape), np.nan, raw.dtype)
    seen = np.isfinite(scores)
    np.copyto(triple[0], raw, where=seen)
    np.copyto(triple[1], composed, where=seen)
    np.subtract(composed, raw, out=triple[2], where=seen)
    return triple


def _head_view(
    triple: np.ndarray, run: Capture, selection: Selection, kind: str, window: Window | None, scale: float
) -> MapView:
    titles = (f"{kind}, {name}" for name in ("raw", "composed", "composed - raw"))
    return MapView(
        panels=[Panel(title, one, scale=scale, unit=UNITS[kind]) for title, one in zip(titles, triple, strict=True)],
        rows=Labels("query", run.str_tokens), cols=Labels("key", run.str_tokens),
        selected=(selection.query, selection.key), window=window, size=(len(run), len(run)),
    )  # fmt: skip


def snap(maps: Mapping[str, Tensor], kind: str, cell: Cell, window: Window | None) -> Cell:
    """The cell that a click means: in a reduced map the strongest composed one under the drawn pixel.

    Args:
        maps: the head's four maps. cell: the clicked (query, key). window: what was shown; None = the whole map.
    """
    values = maps[f"{kind}_composed"]
    (r0, r1), (c0, c1) = window or ((0, len(values)), (0, len(values)))
    rows, cols = block_around(cell[0], r0, r1), block_around(cell[1], c0, c1)
    block = values[rows, cols].abs()
    block = block.masked_fill(~torch.isfinite(block), -1.0)
    if block.max() < 0:  # nothing there may be seen: the click means itself
        return cell
    row, col = divmod(int(block.argmax()), block.shape[1])
    return rows.start + row, cols.start + col


def read_cell(run: Capture, selection: Selection, kind: str) -> CellReading:
    """Everything exact about one cell: raw and composed values of all heads, M, its branches, and the sum checks."""
    mix = run.mixing(selection.layer, KINDS[kind])
    whole, parts = mix.matrix(selection.query, selection.key), mix.branches(selection.query, selection.key)
    # the query's whole row once: its sum is shown too
    row = {name: values[:, 0] for name, values in run.maps(selection.layer, queries=selection.query).items()}
    raw = row[f"{kind}_raw"][:, selection.key]
    visible = bool(torch.isfinite(row["scores_composed"][:, selection.key]).all())
    composed = row[f"{kind}_composed"][:, selection.key] if visible else raw @ whole
    sources = raw * whole[:, selection.head]
    return CellReading(
        raw=raw.numpy(), composed=composed.numpy(), matrix=whole.numpy(),
        branches={name: part.numpy() for name, part in parts.items()}, parts=sources.numpy(),
        branch_error=float((sum(parts.values()) - whole).abs().max()),
        composed_error=float((sources.sum() - composed[selection.head]).abs()),
        row_sum=float(row["pattern_composed"][selection.head].sum()), visible=visible,
    )  # fmt: skip


def matrix_view(cell: CellReading, head: int) -> MapView:
    """M of one cell beside its five branches, source head x target head, on one scale; the head's column is framed."""
    branches = {name.replace("_lowrank", " low-rank").replace("_", " "): part for name, part in cell.branches.items()}
    parts = {"M = sum of the five": cell.matrix} | branches
    scale = max_abs(*parts.values())
    return MapView(
        panels=[Panel(title, values, scale=scale) for title, values in parts.items()],
        rows=Labels("source head"), cols=Labels("target head"), column=head, written=True, most_columns=3,
    )  # fmt: skip


def sources_view(cell: CellReading, head: int, kind: str) -> MapView:
    """raw x M of every source head, whose sum is the composed value of the head, as one row."""
    title = f"raw × M into head {head}, by source head: sums to {cell.parts.sum():.4f}"
    return MapView(
        panels=[Panel(title, cell.parts[None], unit=UNITS[kind])], rows=Labels("head", [str(head)]),
        cols=Labels("source head"), stretch=True, written=True,
    )  # fmt: skip


def next_tokens(run: Capture, position: int, decode: object, count: int = 5) -> list[tuple[str, float]]:
    """The most likely next tokens after a position, with their probabilities."""
    if run.logits is None:
        raise ValueError("This capture was made without logits. Capture again with logits=True.")
    values, ids = run.logits[position].softmax(-1).topk(min(count, run.logits.shape[-1]))
    return [(decode([token]), float(p)) for token, p in zip(ids.tolist(), values.tolist(), strict=True)]  # type: ignore[operator]
