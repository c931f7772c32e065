"""One mixing matrix, whole and split into its five branches, on one scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures.style import DIVERGING, finish

WHOLE = ("M = sum of the five", (0.0, 0.36), (0.0, 1.0))
PLACES = {  # branch -> (title, left and right, bottom and top) beside the whole matrix
    "base": ("base", (0.45, 0.61), (0.59, 1.0)),
    "query_lowrank": ("query low-rank", (0.645, 0.805), (0.59, 1.0)),
    "query_gate": ("query gate", (0.84, 1.0), (0.59, 1.0)),
    "key_lowrank": ("key low-rank", (0.645, 0.805), (0.0, 0.41)),
    "key_gate": ("key gate", (0.84, 1.0), (0.0, 0.41)),
}
WRITTEN_UP_TO = 8
"""Values are written into the cells of the whole matrix up to this many heads."""


def mixing_matrix_figure(whole: np.ndarray, branches: Mapping[str, np.ndarray], target: int | None = None) -> go.Figure:
    """M(query, key) beside the five summands it is made of, all on the scale of the largest entry.

    Args:
        whole: [H, H], source x target.
        branches: the five parts by name, each [H, H], summing to whole.
        target: a target head whose column is marked.
    """
    scale = max(float(np.abs(part).max()) for part in (whole, *branches.values())) or 1.0
    parts = {"": (whole, WHOLE)} | {name: (branches[name], place) for name, place in PLACES.items()}
    traces, layout = [], {"annotations": [], "shapes": _column(target, len(whole))}
    for number, (values, (title, x, y)) in enumerate(parts.values(), start=1):
        axis = "" if number == 1 else str(number)
        traces.append(_heatmap(values, scale, axis, large=number == 1))
        layout |= _axes(axis, x, y, len(whole), named=number == 1)
        layout["annotations"].append(_title(title, sum(x) / 2, y[1]))
    # one dict, checked once: plotly's subplot helpers take ten times as long
    return finish(go.Figure(data=traces, layout=layout), 490)


def _heatmap(values: np.ndarray, scale: float, axis: str, large: bool) -> dict[str, Any]:
    return {
        "type": "heatmap", "z": values, "zmin": -scale, "zmax": scale, "colorscale": DIVERGING, "xgap": 1, "ygap": 1,
        "xaxis": f"x{axis}", "yaxis": f"y{axis}", "showscale": large,
        "texttemplate": "%{z:.2f}" if large and len(values) <= WRITTEN_UP_TO else None, "textfont": {"size": 11},
        "hovertemplate": "source head %{y} → target head %{x}: %{z:.4f}<extra></extra>",
        "colorbar": {"orientation": "h", "thickness": 10, "len": 0.36, "x": 0.18, "y": -0.14, "yanchor": "top"},
    }  # fmt: skip


def _axes(axis: str, x: tuple[float, float], y: tuple[float, float], heads: int, named: bool) -> dict[str, Any]:
    ticks = {
        "tickmode": "linear", "dtick": 1 if heads <= 8 else heads // 4, "showgrid": False, "zeroline": False,
        "constrain": "domain", "ticklabeloverflow": "allow",  # measuring what overflows takes a quarter of the drawing
    }  # fmt: skip
    titles = ("target head", "source head") if named else (None, None)
    return {
        f"xaxis{axis}": ticks | {"domain": x, "anchor": f"y{axis}", "title": {"text": titles[0], "standoff": 4}},
        f"yaxis{axis}": ticks | {"domain": y, "anchor": f"x{axis}", "title": {"text": titles[1], "standoff": 4},
                                 "autorange": "reversed", "scaleanchor": f"x{axis}", "scaleratio": 1},
    }  # fmt: skip


def _title(text: str, x: float, y: float) -> dict[str, Any]:
    return {"text": text, "x": x, "y": y, "xref": "paper", "yref": "paper", "xanchor": "center", "yanchor": "bottom",
            "showarrow": False, "font": {"size": 14}}  # fmt: skip


def _column(target: int | None, heads: int) -> list[dict[str, Any]]:
    """A frame around the target head's column of the whole matrix."""
    if target is None:
        return []
    return [{"type": "rect", "xref": "x", "yref": "y", "x0": target - 0.5, "x1": target + 0.5, "y0": -0.5,
             "y1": heads - 0.5, "line": {"width": 2, "color": "#c33"}}]  # fmt: skip
