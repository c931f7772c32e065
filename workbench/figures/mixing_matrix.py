"""One mixing matrix, whole and split into its five branches, on one scale."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.figures.style import DIVERGING, finish

PLACES = {  # branch -> (title, row, column) in the grid beside the whole matrix
    "base": ("base", 1, 3),
    "query_lowrank": ("query low-rank", 1, 4),
    "query_gate": ("query gate", 1, 5),
    "key_lowrank": ("key low-rank", 2, 4),
    "key_gate": ("key gate", 2, 5),
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
    titles = ["M = sum of the five", *(PLACES[name][0] for name in PLACES)]
    figure = make_subplots(
        rows=2, cols=5, specs=[[{"rowspan": 2, "colspan": 2}, None, {}, {}, {}], [None, None, None, {}, {}]],
        subplot_titles=titles, horizontal_spacing=0.05, vertical_spacing=0.16,
    )  # fmt: skip
    figure.add_trace(_heatmap(whole, scale, written=len(whole) <= WRITTEN_UP_TO, bar=True), row=1, col=1)
    for name, (_, row, column) in PLACES.items():
        figure.add_trace(_heatmap(branches[name], scale, written=False, bar=False), row=row, col=column)
    if target is not None:
        figure.add_vrect(
            x0=target - 0.5,
            x1=target + 0.5,
            line={"width": 2, "color": "#c33"},
            fillcolor="rgba(0,0,0,0)",
            row=1,
            col=1,
        )
    _square_axes(figure, len(whole))
    return finish(figure, 470)


def _heatmap(values: np.ndarray, scale: float, written: bool, bar: bool) -> go.Heatmap:
    return go.Heatmap(
        z=values, zmin=-scale, zmax=scale, colorscale=DIVERGING, showscale=bar, xgap=1, ygap=1,
        texttemplate="%{z:.2f}" if written else None, textfont={"size": 11},
        hovertemplate="source head %{y} → target head %{x}: %{z:.4f}<extra></extra>",
        colorbar={"orientation": "h", "thickness": 10, "len": 0.4, "x": 0.18, "y": -0.14, "yanchor": "top"},
    )  # fmt: skip


def _square_axes(figure: go.Figure, heads: int) -> None:
    ticks = {"tickmode": "linear", "dtick": 1 if heads <= 8 else heads // 4, "showgrid": False, "zeroline": False}
    figure.update_xaxes(constrain="domain", title_standoff=4, **ticks)
    figure.update_yaxes(autorange="reversed", scaleratio=1, constrain="domain", title_standoff=4, **ticks)
    for number, axis in enumerate(figure.select_yaxes()):
        axis.scaleanchor = "x" if number == 0 else f"x{number + 1}"
    figure.update_xaxes(title_text="target head", row=1, col=1)
    figure.update_yaxes(title_text="source head", row=1, col=1)
