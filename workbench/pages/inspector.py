"""What a composed value is made of: one pair of tokens, a whole row, or a whole column."""

from __future__ import annotations

import numpy as np
import streamlit as st

from model import Capture
from model.mixing import BRANCHES
from workbench import views
from workbench.lines import Along, line_view, read_line
from workbench.pages.downloads import show_maps
from workbench.viewer.component import read_event
from workbench.viewer.view import visible_token
from workbench.views import KINDS, CellReading, Selection

LOOKS: dict[str, Along | None] = {"one pair": None, "whole row": "row", "whole column": "column"}
MATRIX_PX = 260
PARTS_OF_LINE = len(BRANCHES) + 2  # rows of a line's map below the source heads: a gap, the branches, their sum


def take_click(run: Capture) -> dict[str, int]:
    """What a click into this section means: the head of a matrix's column, or the key or query of a line's map."""
    along = LOOKS.get(st.session_state.get("look", ""))
    if along is None:
        heads = run.cfg.n_heads
        picks = [read_event(key, (rows, heads)).pick for key, rows in (("matrix", heads), ("sources", 1))]
        return next(({"head": pick[1]} for pick in picks if pick is not None), {})
    event = read_event("line", (run.cfg.n_heads + PARTS_OF_LINE, len(run)))
    return {} if event.pick is None else {"key" if along == "row" else "query": event.pick[1]}


def inspector(run: Capture, selection: Selection, kind: str) -> None:
    """The section of the page for a selection; kind: "scores" or "pattern"."""
    site = KINDS[kind]
    query, key = (visible_token(run.str_tokens[at]) for at in (selection.query, selection.key))
    place = f"query {selection.query} and key {selection.key}"
    st.markdown(f"##### What head {selection.head} is made of: M_{site} at {place}")
    st.code(f"query {selection.query}: {query}    key {selection.key}: {key}", language=None)
    look = st.segmented_control("Look at", list(LOOKS), required=True, key="look", label_visibility="collapsed")
    along = LOOKS[look or next(iter(LOOKS))]
    if along is None:
        show_pair(run, selection, kind)
    else:
        show_line(run, selection, kind, along)


def show_pair(run: Capture, selection: Selection, kind: str) -> None:
    cell = views.read_cell(run, selection, kind)
    st.caption(
        "Click a cell of the maps, or tokens in the strip, to choose another pair; click a head below to look at it."
    )
    if not cell.visible:
        st.warning("This query does not see this key (it comes later, or lies outside the layer's window).")
    numbers = st.columns(4)
    numbers[0].metric(f"raw, head {selection.head}", f"{cell.raw[selection.head]:.4f}")
    numbers[1].metric(f"composed, head {selection.head}", f"{cell.composed[selection.head]:.4f}")
    numbers[2].metric("row sum of composed pattern", f"{cell.row_sum:.3f}")
    numbers[3].metric("branches − M, largest", f"{cell.branch_error:.1e}")
    show_maps(views.matrix_view(cell, selection.head), key="matrix", name="mixing_matrix", height=MATRIX_PX)
    show_maps(views.sources_view(cell, selection.head, kind), key="sources", name="source_heads", height=48)
    st.caption(_drivers(run, selection, cell))


def _drivers(run: Capture, selection: Selection, cell: CellReading) -> str:
    """Which of the two tokens the composed value owes how much to."""
    shares = {name: float(cell.raw @ part[:, selection.head]) for name, part in cell.branches.items()}
    query, key = (shares[f"{side}_lowrank"] + shares[f"{side}_gate"] for side in ("query", "key"))
    return (
        f"Of {cell.parts.sum():+.4f}: {shares['base']:+.4f} without any mixing that depends on tokens, {query:+.4f} "
        f"through what the query token chose, {key:+.4f} through what the key token chose (by branch; a constant moves "
        "freely between them)."
    )


def show_line(run: Capture, selection: Selection, kind: str, along: Along) -> None:
    line = read_line(run, selection, kind, along)
    other = "key" if along == "row" else "query"
    st.caption(
        f"The composed {along} of head {selection.head} (last line), written out: raw × M of every source head, and by "
        f"branch. Both sum to it. Click a {other} to look at it."
    )
    numbers = st.columns(4)
    numbers[0].metric(f"{other}s on the {along}", f"{line.positions.stop - line.positions.start}")
    numbers[1].metric(f"sum of the composed {along}", f"{line.composed.sum():.4f}")
    strongest = int(np.abs(line.by_source).sum(1).argmax())
    numbers[2].metric("source head that brings most", f"{strongest}", help="Largest sum of sizes along the line.")
    numbers[3].metric("sums − composed, largest", f"{line.error:.1e}")
    show_maps(line_view(run, selection, kind, along, line), key="line", name=f"{kind}_{along}", height=420)
