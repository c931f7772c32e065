"""Metrics over layers: a panel for each, a line for each stage or site."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.style import as_typed, finish

LOOKS = {
    "raw": ("circle-open", "#7a7a7a"), "composed": ("diamond", "#d95f02"),
    "pre": ("circle", "#1b9e77"), "post": ("square", "#7570b3"),
}  # fmt: skip
"""Symbol and colour of each stage and site."""
PANEL_PX, BETWEEN_PX, MARGINS_PX = 170, 92, 130


@dataclass(frozen=True)
class LayerPanel:
    """A metric: the column it stands in, how it is called, its unit, and a value drawn for comparison."""

    column: str
    title: str
    unit: str
    baseline: float


def by_layer_figure(table: pd.DataFrame, series: str, panels: Sequence[LayerPanel], on_a_line: int = 2) -> go.Figure:
    """Lines over layers.

    Args:
        table: columns layer, the series, and one for each panel; nan is left out.
        series: "stage" or "site". panels: at least one. on_a_line: panels side by side.
    """
    lines = -(-len(panels) // on_a_line)
    height = lines * PANEL_PX + (lines - 1) * BETWEEN_PX + MARGINS_PX
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"annotations": [], "shapes": [], "legend": _LEGEND}
    for number, panel in enumerate(panels):
        axis = "" if number == 0 else str(number + 1)
        x, y = _place(number, on_a_line, lines, height)
        traces += _lines(table, series, panel, axis, number == 0)
        layout |= _axes(axis, x, y, table["layer"].to_numpy(), number >= len(panels) - on_a_line)
        layout["annotations"].append(_title(f"{panel.title} ({panel.unit})", x, y, 110 // on_a_line))
        layout["shapes"].append(_baseline(panel.baseline, axis))
    return finish(go.Figure(data=traces, layout=layout), height).update_layout(showlegend=True, margin_t=84)


_LEGEND = {"orientation": "h", "x": 0, "yref": "container", "y": 0.995, "yanchor": "top"}


def _lines(table: pd.DataFrame, series: str, panel: LayerPanel, axis: str, legend: bool) -> list[dict[str, Any]]:
    traces = []
    for name in [look for look in LOOKS if look in set(table[series])]:
        rows = table[table[series] == name].dropna(subset=[panel.column])
        symbol, colour = LOOKS[name]
        traces.append({
            "type": "scatter", "mode": "lines+markers", "name": name, "legendgroup": name, "showlegend": legend,
            "x": rows["layer"].to_numpy(), "y": rows[panel.column].to_numpy(float), "xaxis": f"x{axis}",
            "yaxis": f"y{axis}", "line": {"width": 1.2, "color": colour}, "marker": {"symbol": symbol, "size": 8},
            "hovertemplate": f"layer %{{x}}, {name}: %{{y:.4f}} {as_typed(panel.unit)}<extra></extra>",
        })  # fmt: skip
    return traces


def _place(number: int, on_a_line: int, lines: int, height: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Left and right, bottom and top of a panel, as shares of the figure without its margins."""
    line, column = divmod(number, on_a_line)
    gap, inner = 0.11 if on_a_line == 2 else 0.075, height - MARGINS_PX
    width = (1 - gap * (on_a_line - 1)) / on_a_line
    left, top = column * (width + gap), 1 - line * (PANEL_PX + BETWEEN_PX) / inner
    return (left, left + width), (max(0.0, top - PANEL_PX / inner), top)


def _axes(axis: str, x: tuple[float, float], y: tuple[float, float], layers: np.ndarray, named: bool) -> dict[str, Any]:
    grid = {"gridcolor": "rgba(128,128,128,0.2)", "zeroline": False}
    ticks = np.unique(layers)
    step = -(-len(ticks) // 12)
    return {
        f"xaxis{axis}": grid | {"domain": x, "anchor": f"y{axis}", "tickvals": ticks[::step],
                                "title": {"text": "layer" if named else "", "standoff": 6}},
        f"yaxis{axis}": grid | {"domain": y, "anchor": f"x{axis}", "nticks": 6},
    }  # fmt: skip


def _title(text: str, x: tuple[float, float], y: tuple[float, float], width: int) -> Mapping[str, Any]:
    lines = "<br>".join(map(as_typed, textwrap.wrap(text, width)))
    return {"text": lines, "x": x[0], "y": y[1], "xref": "paper", "yref": "paper",
            "xanchor": "left", "yanchor": "bottom", "align": "left", "showarrow": False,
            "font": {"size": 13}}  # fmt: skip


def _baseline(value: float, axis: str) -> dict[str, Any]:
    return {"type": "line", "xref": f"x{axis} domain", "yref": f"y{axis}", "x0": 0, "x1": 1, "y0": value, "y1": value,
            "line": {"width": 1, "dash": "dot", "color": "rgba(128,128,128,0.8)"}}  # fmt: skip
