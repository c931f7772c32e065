"""A composed value written out as the sum over the source heads it was made from."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from workbench.figures.style import NEGATIVE, POSITIVE, as_typed, finish


def source_heads_figure(parts: np.ndarray, target: int, unit: str) -> go.Figure:
    """Bars raw[g] * M[g, target], one for each source head g; their sum is the composed value.

    Args:
        parts: [H]. target: the target head. unit: of the map, for the axis.
    """
    colours = np.where(parts < 0, NEGATIVE, POSITIVE)
    figure = go.Figure(
        go.Bar(x=np.arange(len(parts)), y=parts, marker_color=colours,
               hovertemplate="source head %{x}: %{y:.4f}<extra></extra>")
    )  # fmt: skip
    figure.update_layout(title={"text": f"composed, head {target} = sum over source heads = {parts.sum():.4f}"})
    figure.update_xaxes(title_text="source head", tickmode="linear", dtick=1 if len(parts) <= 16 else len(parts) // 8)
    figure.update_yaxes(
        title_text=f"raw × M ({as_typed(unit)})",
        exponentformat="e",
        zeroline=True,
        zerolinecolor="rgba(128,128,128,0.6)",
    )
    return finish(figure, 280)
