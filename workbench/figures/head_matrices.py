"""Matrices of source and target heads side by side, all on one scale centred on 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures.style import DIVERGING, as_typed, finish

ON_A_LINE = 4
"""Panels that stand side by side."""
PANEL_PX, TITLE_PX, MARGINS_PX = 210, 78, 90
"""Height of a panel, of what stands between two lines of them, and of the figure's margins."""


def head_matrices_figure(
    panels: Mapping[str, np.ndarray], unit: str, marked: tuple[int, int, int] | None = None, sums: bool = False
) -> go.Figure:
    """Source x target heatmaps.

    Args:
        panels: title -> [source, target]. unit: of the values.
        marked: (panel, source, target) of a cell with a frame.
        sums: add a row below each panel with the sums over sources, on the same scale.
    """
    shown = [_with_sums(values) if sums else values for values in panels.values()]
    scale = max((float(np.abs(values[np.isfinite(values)]).max()) for values in shown), default=0.0) or 1.0
    lines = -(-len(panels) // ON_A_LINE)
    height = lines * PANEL_PX + (lines - 1) * TITLE_PX + MARGINS_PX
    across = min(ON_A_LINE, max(2, len(panels)))
    traces, layout = [], _start(scale, unit, _place(min(len(panels), across) - 1, across, lines, height)[0][1])
    for number, (title, values) in enumerate(zip(panels, shown, strict=True)):
        axis = "" if number == 0 else str(number + 1)
        x, y = _place(number, across, lines, height)
        traces.append(_heatmap(values, axis, unit, sums))
        named = (number % ON_A_LINE == 0, number >= len(panels) - ON_A_LINE)
        layout |= _axes(axis, x, y, values.shape, named, sums)
        layout["annotations"].append(
            {"text": as_typed(title), "x": sum(x) / 2, "y": y[1], "xref": "paper", "yref": "paper", "xanchor": "center",
             "yanchor": "bottom", "showarrow": False, "font": {"size": 13}}
        )  # fmt: skip
    layout["shapes"] = [] if marked is None else [_frame(*marked)]
    return finish(go.Figure(data=traces, layout=layout), height)


def _with_sums(values: np.ndarray) -> np.ndarray:
    """The matrix, a gap, and the sum of each column."""
    return np.concatenate([values, np.full((1, values.shape[1]), np.nan), values.sum(0, keepdims=True)])


def _start(scale: float, unit: str, right: float) -> dict[str, Any]:
    """right: where the panels end."""
    bar = {"thickness": 12, "x": right + 0.01, "xanchor": "left", "title": {"text": as_typed(unit), "side": "right"}}
    return {"annotations": [], "coloraxis": {"cmin": -scale, "cmax": scale, "colorscale": DIVERGING, "colorbar": bar}}


def _place(number: int, on_a_line: int, lines: int, height: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Left and right, bottom and top of a panel, as shares of the figure without its margins."""
    line, column = divmod(number, on_a_line)
    gap, inner = 0.05, height - MARGINS_PX
    width = (1 - gap * (on_a_line - 1)) / on_a_line
    left, top = column * (width + gap), 1 - line * (PANEL_PX + TITLE_PX) / inner
    return (left, left + width), (max(0.0, top - PANEL_PX / inner), top)


def _heatmap(values: np.ndarray, axis: str, unit: str, sums: bool) -> dict[str, Any]:
    named = [[f"source {g} → target {h}" for h in range(values.shape[1])] for g in range(len(values))]
    if sums:
        named[-1] = [f"all sources → target {h}" for h in range(values.shape[1])]
    return {
        "type": "heatmap", "z": values, "text": np.array(named), "coloraxis": "coloraxis", "xgap": 1, "ygap": 1,
        "xaxis": f"x{axis}", "yaxis": f"y{axis}", "hoverongaps": False,
        "hovertemplate": f"%{{text}}: %{{z:+.4f}} {as_typed(unit)}<extra></extra>",
    }  # fmt: skip


def _axes(
    axis: str, x: tuple[float, float], y: tuple[float, float], shape: tuple[int, ...], named: tuple[bool, bool],
    sums: bool,
) -> dict[str, Any]:  # fmt: skip
    """named: whether this panel says what its rows are, and what its columns are."""
    bare = {"showgrid": False, "zeroline": False, "tickmode": "array"}
    sources, targets = _ticks(shape[0] - 2 * sums), _ticks(shape[1])
    names = [str(g) for g in sources]
    rows: dict[str, Any] = {"tickvals": sources, "ticktext": names}
    if sums:
        rows = {"tickvals": [*sources, shape[0] - 1], "ticktext": [*names, "sum"]}
    title = {"standoff": 6, "font": {"size": 12}}
    return {
        f"xaxis{axis}": bare | {"domain": x, "anchor": f"y{axis}", "tickvals": targets,
                                "title": title | {"text": "target head" if named[1] else ""}},
        f"yaxis{axis}": bare | rows | {"domain": y, "anchor": f"x{axis}", "autorange": "reversed",
                                       "title": title | {"text": "source head" if named[0] else ""}},
    }  # fmt: skip


def _ticks(heads: int) -> list[int]:
    return list(range(0, heads, 1 if heads <= 16 else 4))


def _frame(panel: int, source: int, target: int) -> dict[str, Any]:
    axis = "" if panel == 0 else str(panel + 1)
    return {"type": "rect", "xref": f"x{axis}", "yref": f"y{axis}", "x0": target - 0.5, "x1": target + 0.5,
            "y0": source - 0.5, "y1": source + 0.5, "line": {"width": 2, "color": "#2a9d3a"}}  # fmt: skip
