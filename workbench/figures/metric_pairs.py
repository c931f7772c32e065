"""One metric of all head pairs: the first run's value across, the second one's up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.head_scatter import STAGES, Scale
from workbench.figures.style import as_typed, finish

FAINT = 0.4


def metric_pairs_figure(table: pd.DataFrame, unit: str, chosen: tuple[int, int] | None = None) -> go.Figure:
    """A point for each pair and stage; on the dotted line both values are equal. customdata: its row's label.

    Both axes are linear near 0 and logarithmic far from it, see head_scatter.Scale.

    Args:
        table: columns layer, head_a, head_b, stage, a and b; rows with nan are left out.
        chosen: (layer, head of the first run) that stands out; None = all.
    """
    shown = table.dropna(subset=["a", "b"])
    values = shown[["a", "b"]].to_numpy(float)
    scale = Scale.of(values.ravel())
    axis = scale.axis(values.ravel())
    traces = [_points(shown[shown["stage"] == stage], stage, scale, chosen) for stage in STAGES]
    layout = {
        "xaxis": axis | {"title": {"text": f"A ({as_typed(unit)})"}},
        "yaxis": axis | {"title": {"text": f"B ({as_typed(unit)})"}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, "hovermode": "closest",
        "dragmode": "pan", "shapes": [_equal(scale.place(values))] if len(values) else [],
    }  # fmt: skip
    return finish(go.Figure(data=traces, layout=layout), 420).update_layout(showlegend=True)


def _points(rows: pd.DataFrame, stage: str, scale: Scale, chosen: tuple[int, int] | None) -> dict[str, Any]:
    symbol, colour = STAGES[stage]
    heads = [(int(layer), int(a), int(b)) for layer, a, b in rows[["layer", "head_a", "head_b"]].to_numpy()]
    values = rows[["a", "b"]].to_numpy(float)
    named = [
        f"layer {layer}, head {a} of A and {b} of B, {stage}<br>A {one:.4g}, B {two:.4g}"
        for (layer, a, b), (one, two) in zip(heads, values, strict=True)
    ]
    opacity = [1.0 if chosen is None or (layer, a) == chosen else FAINT for layer, a, _ in heads]
    return {
        "type": "scatter", "mode": "markers", "name": stage, "x": scale.place(values[:, 0]),
        "y": scale.place(values[:, 1]), "customdata": rows.index.to_numpy(), "hovertext": named,
        "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {"symbol": symbol, "color": colour, "size": 9, "opacity": np.array(opacity)},
    }  # fmt: skip


def _equal(places: np.ndarray) -> dict[str, Any]:
    low, high = float(places.min()), float(places.max())
    return {"type": "line", "x0": low, "x1": high, "y0": low, "y1": high, "layer": "below",
            "line": {"width": 1, "dash": "dot", "color": "rgba(128,128,128,0.8)"}}  # fmt: skip
