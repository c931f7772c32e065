"""The numbers of a view as a file."""

from __future__ import annotations

import pandas as pd

from workbench.viewer.view import MapView, visible_token

MAX_CSV_CELLS = 300_000
"""Cells of all panels beyond which a table is no sensible file: zoom in, or save the capture."""


def csv_refusal(view: MapView) -> str | None:
    """Why view_csv makes no file of a view; None = it does."""
    (r0, r1), (c0, c1) = view.extent
    cells = (r1 - r0) * (c1 - c0) * len(view.panels)
    if cells > MAX_CSV_CELLS:
        return f"This window has {cells:,} values, a CSV file at most {MAX_CSV_CELLS:,}. Zoom in first."
    if view.panels[0].values.shape != (r1 - r0, c1 - c0):
        return "These panels were reduced and no longer hold every cell. Zoom in first."
    return None


def view_csv(view: MapView) -> str:
    """One line a cell of the window: row, column, their names, and a column for each panel; empty = absent.

    Raises:
        ValueError: more than MAX_CSV_CELLS values, or a view whose panels were reduced.
    """
    if refusal := csv_refusal(view):
        raise ValueError(refusal)
    (r0, r1), (c0, c1) = view.extent
    grid = pd.MultiIndex.from_product([range(r0, r1), range(c0, c1)], names=[view.rows.title, view.cols.title])
    table = grid.to_frame(index=False)
    for labels, at in ((view.rows, table[view.rows.title]), (view.cols, table[view.cols.title])):
        if labels.names:
            table[f"{labels.title} name"] = [visible_token(labels.names[position]) for position in at]
    for panel in view.panels:
        table[panel.title] = panel.values.reshape(-1)
    return table.to_csv(index=False)
