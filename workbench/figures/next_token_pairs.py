"""What two runs predict next: each token's two probabilities, joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures.style import as_typed, finish

SIDES = {"A": ("circle-open", "#7a7a7a"), "B": ("diamond", "#d95f02")}
"""Symbol and colour of each run."""
ROW_PX, MARGINS_PX = 26, 96


def next_token_pairs_figure(tokens: Sequence[str], p_a: np.ndarray, p_b: np.ndarray) -> go.Figure:
    """A row for each token, the first one on top.

    Args:
        tokens: as they are to be shown; equal ones keep rows of their own. p_a, p_b: probabilities; nan is left out.
    """
    rows, names = np.arange(len(tokens)), list(map(as_typed, tokens))
    traces: list[dict[str, Any]] = [_joins(rows, p_a, p_b)]
    for (name, (symbol, colour)), values in zip(SIDES.items(), (p_a, p_b), strict=True):
        traces.append({
            "type": "scatter", "mode": "markers", "name": name, "x": values, "y": rows, "text": np.array(names),
            "cliponaxis": False,
            "hovertemplate": f"%{{text}}<br>{name}: %{{x:.4f}}<extra></extra>",
            "marker": {"symbol": symbol, "color": colour, "size": 10},
        })  # fmt: skip
    grid = {"gridcolor": "rgba(128,128,128,0.2)", "zerolinecolor": "rgba(128,128,128,0.6)"}
    layout = {
        "xaxis": grid | {"title": {"text": "probability"}, "rangemode": "tozero"},
        "yaxis": grid | {"tickmode": "array", "tickvals": rows, "ticktext": names, "automargin": True,
                         "range": [len(tokens) - 0.5, -0.5], "zeroline": False},
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}, "hovermode": "closest",
    }  # fmt: skip
    height = ROW_PX * len(tokens) + MARGINS_PX
    return finish(go.Figure(data=traces, layout=layout), height).update_layout(showlegend=True)


def _joins(rows: np.ndarray, p_a: np.ndarray, p_b: np.ndarray) -> dict[str, Any]:
    gap = np.full(len(rows), np.nan)
    return {
        "type": "scatter", "mode": "lines", "x": np.stack([p_a, p_b, gap], 1).ravel(),
        "y": np.stack([rows, rows, gap], 1).ravel(), "hoverinfo": "skip", "showlegend": False,
        "line": {"width": 2, "color": "rgba(128,128,128,0.55)"},
    }  # fmt: skip
