"""All heads by two metrics, raw and composed, each head's two points joined."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.style import as_typed, finish

STAGES = {"raw": ("circle-open", "#7a7a7a"), "composed": ("diamond", "#d95f02")}
"""Symbol and colour of each stage."""
FAINT = 0.2
LEAST_GAP = 0.07
"""Distance between two ticks, as a share of the axis."""
Head = tuple[int, int]


def head_scatter_figure(
    table: pd.DataFrame, x: str, y: str, titles: tuple[str, str], chosen: Set[Head] | None = None, robust: bool = True
) -> go.Figure:
    """A point for each head and stage; customdata of a point is the label of its row in the table.

    Args:
        table: columns layer, head, stage, x and y; rows with nan are left out.
        x, y: columns. titles: of the axes.
        chosen: (layer, head) of those that stand out; None = all.
        robust: scale both axes by arcsinh(value / median |value|), so that a few very large weights do not press the
            others together. Hover and ticks give the values themselves.
    """
    shown = table.dropna(subset=[x, y])
    scales = [Scale.of(shown[name].to_numpy(float)) if robust else Scale(None) for name in (x, y)]
    traces = [_joins(shown, (x, y), scales, chosen)]
    traces += [_points(shown[shown.stage == stage], stage, (x, y), scales, chosen) for stage in STAGES]
    axes = [scale.axis(shown[name].to_numpy(float)) for scale, name in zip(scales, (x, y), strict=True)]
    layout = {
        "xaxis": axes[0] | {"title": {"text": as_typed(titles[0])}},
        "yaxis": axes[1] | {"title": {"text": as_typed(titles[1])}},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, "hovermode": "closest",
        "dragmode": "pan",
    }  # fmt: skip
    return finish(go.Figure(data=traces, layout=layout), 460).update_layout(showlegend=True)


class Scale:
    """An axis that is linear near 0 and logarithmic far from it, on both sides.

    Args:
        unit: the value around which the one turns into the other; None leaves the axis linear.
    """

    def __init__(self, unit: float | None):
        self.unit = unit

    @classmethod
    def of(cls, values: np.ndarray) -> Scale:
        """With the median magnitude of the values that are not 0 as the unit."""
        sizes = np.abs(values[values != 0])
        return cls(float(np.median(sizes)) if len(sizes) else None)

    def place(self, values: np.ndarray) -> np.ndarray:
        return values if self.unit is None else np.arcsinh(values / self.unit)

    def axis(self, values: np.ndarray) -> dict[str, Any]:
        """Ticks with the values that they stand for."""
        axis = {"gridcolor": "rgba(128,128,128,0.2)", "zerolinecolor": "rgba(128,128,128,0.6)"}
        if self.unit is None or not len(values):
            return axis
        ticks = self.ticks(float(values.min()), float(values.max()))
        ticks = self._apart(ticks, float(np.ptp(self.place(values))))
        return axis | {"tickmode": "array", "tickvals": self.place(ticks), "ticktext": [f"{tick:g}" for tick in ticks],
                       "tickangle": 0}  # fmt: skip

    def ticks(self, low: float, high: float) -> np.ndarray:
        """0 and round numbers on both sides, up to those that enclose all values."""
        assert self.unit is not None  # a linear axis finds its own
        first = 10.0 ** np.floor(np.log10(self.unit))
        steps = [first * 10.0**k for k in range(12) if first * 10.0**k <= 10 * max(-low, high)]
        sizes = np.array(sorted({*steps, *(3 * step for step in steps)}))
        inside = [-size for size in sizes[::-1] if -size >= 1.2 * low] + [0.0]
        return np.array(inside + [size for size in sizes if size <= 1.2 * high])

    def _apart(self, ticks: np.ndarray, span: float) -> np.ndarray:
        """0 and, outwards from it, those ticks that do not run into the one before."""
        kept = [0.0]
        for side in (ticks[ticks > 0], ticks[ticks < 0][::-1]):
            last = 0.0
            for tick, place in zip(side.tolist(), np.abs(self.place(side)).tolist(), strict=True):
                if place - last >= LEAST_GAP * span:
                    last = place
                    kept.append(tick)
        return np.array(sorted(kept))


def _points(
    rows: pd.DataFrame, stage: str, columns: tuple[str, str], scales: list[Scale], chosen: Set[Head] | None
) -> dict[str, Any]:
    symbol, colour = STAGES[stage]
    xs, ys = (rows[name].to_numpy(float) for name in columns)
    heads = rows[["layer", "head"]].to_numpy()
    named = [f"layer {layer}, head {head}, {stage}<br>{a:.4g}, {b:.4g}" for (layer, head), a, b in zip(heads, xs, ys)]
    return {
        "type": "scatter", "mode": "markers", "name": stage, "x": scales[0].place(xs), "y": scales[1].place(ys),
        "customdata": rows.index.to_numpy(), "hovertext": named, "hovertemplate": "%{hovertext}<extra></extra>",
        "marker": {"symbol": symbol, "color": colour, "size": 9, "opacity": _opacity(heads, chosen)},
    }  # fmt: skip


def _opacity(heads: np.ndarray, chosen: Set[Head] | None) -> np.ndarray:
    return np.array([1.0 if chosen is None or (layer, head) in chosen else FAINT for layer, head in heads.tolist()])


def _joins(
    rows: pd.DataFrame, columns: tuple[str, str], scales: list[Scale], chosen: Set[Head] | None
) -> dict[str, Any]:
    """A thin line from raw to composed of each head that has both."""
    raw, composed = (rows[rows.stage == stage].set_index(["layer", "head"])[list(columns)] for stage in STAGES)
    both = [head for head in raw.index.intersection(composed.index) if chosen is None or head in chosen]
    ends = [np.stack([raw.loc[both].to_numpy(float), composed.loc[both].to_numpy(float)], axis=1)] if both else []
    places = []
    for side, scale in enumerate(scales):
        lines = [np.append(scale.place(pair[:, side]), np.nan) for pair in (ends[0] if ends else ())]
        places.append(np.concatenate(lines) if lines else np.array([]))
    return {"type": "scatter", "mode": "lines", "x": places[0], "y": places[1], "hoverinfo": "skip",
            "showlegend": False, "line": {"width": 0.7, "color": "rgba(128,128,128,0.55)"}}  # fmt: skip
