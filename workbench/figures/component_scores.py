"""How strongly the tokens have a component: a histogram, negative and positive scores in the signed colours."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from workbench.figures.style import NEGATIVE, POSITIVE, as_typed, finish

BINS = 60


def component_scores_figure(scores: NDArray[np.float64], unit: str) -> go.Figure:
    """Number of tokens by score, on a logarithmic scale: the few tokens that have a component most are what it shows.

    Args:
        scores: of one component, [token]. unit: of them.
    """
    counts, edges = np.histogram(scores, bins=BINS)
    middles = (edges[1:] + edges[:-1]) / 2
    figure = go.Figure(
        go.Bar(
            x=middles, y=np.where(counts > 0, counts, np.nan), width=np.diff(edges),
            marker={"color": np.where(middles < 0, NEGATIVE, POSITIVE), "line": {"width": 0}},
            hovertemplate="score %{x:.3g}: %{y} tokens<extra></extra>",
        )
    )  # fmt: skip
    finish(figure, 260)
    grid = {"gridcolor": "rgba(128,128,128,0.2)", "zeroline": False}
    return figure.update_layout(
        xaxis=grid | {"title": {"text": f"score, {as_typed(unit)}", "standoff": 6}},
        yaxis=grid | {"title": "tokens", "type": "log", "dtick": 1}, bargap=0, margin_t=16,
    )  # fmt: skip
