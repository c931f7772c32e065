"""A sweep as heatmaps: signed changes of a measure, all panels on one scale centred on 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures.style import DIVERGING, as_typed, finish

WRITTEN_UP_TO = 10
"""Values are written into the cells of up to two panels with up to this many columns."""
COLUMNS_ON_A_LINE = 40
"""Columns of all panels that stand side by side."""
PANELS_ON_A_LINE = 4
TICKS = 64
"""Names along an axis; of more, every second, third ... is written."""
Titles = tuple[str, str]
LETTERS_ON_A_LINE = 110
"""Letters of column names that fit side by side; of more, the names are turned."""
ROW_PX, TITLE_PX, BELOW_PX, LETTER_PX = 24, 30, 56, 6
"""Heights: of a row of cells, above a panel, below it, and of a letter of a turned name."""
GAP = 0.05
"""Between panels side by side, as a share of the width."""


def sweep_cells_figure(
    panels: Mapping[str, np.ndarray], rows: Sequence[str], cols: Sequence[str], titles: Titles, unit: str
) -> go.Figure:
    """Matrices side by side.

    Args:
        panels: title -> [row, column]; nan cells are left blank.
        rows, cols: their names. titles: of the rows and of the columns. unit: of the values.
    """
    scale = max((float(np.nanmax(np.abs(m))) for m in panels.values() if np.isfinite(m).any()), default=0.0) or 1.0
    on_a_line = max(1, min(PANELS_ON_A_LINE, len(panels), COLUMNS_ON_A_LINE // max(1, len(cols))))
    turned = on_a_line * sum(map(len, cols)) > LETTERS_ON_A_LINE
    below = BELOW_PX + (max(map(len, cols)) * LETTER_PX if turned else 0)
    lines, tall = -(-len(panels) // on_a_line), ROW_PX * len(rows)
    height = lines * tall + (lines - 1) * (below + TITLE_PX)
    written = len(cols) <= WRITTEN_UP_TO and len(panels) <= 2
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"annotations": [], "coloraxis": _colours(scale, unit, height)}
    for number, (title, values) in enumerate(panels.items()):
        axis = "" if number == 0 else str(number + 1)
        x, y = _place(number, on_a_line, tall / height, (below + TITLE_PX) / height)
        traces.append(_heatmap(values, rows, cols, titles, axis, written))
        named = (titles[0] if number % on_a_line == 0 else "", titles[1] if number >= len(panels) - on_a_line else "")
        layout |= _axes(axis, x, y, rows, cols, named)
        layout[f"xaxis{axis}"]["tickangle"] = -90 if turned else 0
        layout["annotations"].append(
            {"text": as_typed(title), "x": sum(x) / 2, "y": y[1], "xref": "paper", "yref": "paper", "xanchor": "center",
             "yanchor": "bottom", "showarrow": False, "font": {"size": 13}}
        )  # fmt: skip
    figure = finish(go.Figure(data=traces, layout=layout), height + TITLE_PX + below)
    return figure.update_layout(margin_t=TITLE_PX, margin_b=below)


def _place(number: int, on_a_line: int, tall: float, gap: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Left and right, bottom and top of a panel, as shares of the plotting area."""
    line, column = divmod(number, on_a_line)
    width = (1 - GAP * (on_a_line - 1)) / on_a_line
    left, top = column * (width + GAP), 1 - line * (tall + gap)
    return (left, left + width), (max(0.0, top - tall), top)


def _heatmap(
    values: np.ndarray, rows: Sequence[str], cols: Sequence[str], titles: Titles, axis: str, written: bool
) -> dict[str, Any]:
    # places by number, names as tick labels: tokens repeat, and equal names would fall together
    named = np.array([[as_typed(f"{titles[0]} {row}, {titles[1]} {col}") for col in cols] for row in rows])
    return {
        "type": "heatmap", "z": values, "x": np.arange(len(cols)), "y": np.arange(len(rows)), "text": named,
        "coloraxis": "coloraxis", "xgap": 1, "ygap": 1, "xaxis": f"x{axis}", "yaxis": f"y{axis}",
        "hoverongaps": False, "hovertemplate": "%{text}: %{z:+.4f}<extra></extra>",
        "texttemplate": "%{z:.3f}" if written else None, "textfont": {"size": 11},
    }  # fmt: skip


def _colours(scale: float, unit: str, height: int) -> dict[str, Any]:
    bar = {"thickness": 12, "lenmode": "pixels", "len": max(140, min(height, 320)), "ypad": 0, "exponentformat": "e"}
    bar |= {"title": {"text": as_typed(unit), "side": "right"}}
    return {"cmin": -scale, "cmax": scale, "colorscale": DIVERGING, "colorbar": bar}


def _axes(
    axis: str, x: tuple[float, float], y: tuple[float, float], rows: Sequence[str], cols: Sequence[str], titles: Titles
) -> dict[str, Any]:
    """titles: of rows and columns; "" where a neighbour's will do."""
    bare = {"showgrid": False, "zeroline": False}
    return {
        f"xaxis{axis}": bare | _ticks(cols) | {"domain": x, "anchor": f"y{axis}", "title": _standing(titles[1])},
        f"yaxis{axis}": bare | _ticks(rows) | {"domain": y, "anchor": f"x{axis}", "title": _standing(titles[0]),
                                               "autorange": "reversed"},
    }  # fmt: skip


def _ticks(names: Sequence[str]) -> dict[str, Any]:
    step = -(-len(names) // TICKS)
    return {
        "tickmode": "array",
        "tickvals": list(range(0, len(names), step)),
        "ticktext": list(map(as_typed, names[::step])),
    }


def _standing(title: str) -> dict[str, Any]:
    return {"text": as_typed(title), "standoff": 18, "font": {"size": 12}}
