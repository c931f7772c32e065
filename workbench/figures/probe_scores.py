"""Scores of probes over layers and sites: a line for each kind of feature, with intervals, and what they are held
against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.figures.style import as_typed, finish

# ColorBrewer's Dark2 without its yellow
COLOURS = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#a6761d")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
GREY = "#808080"
DASHES = ("dot", "dash", "dashdot", "longdash", "2px,6px", "9px,3px,2px,3px,2px,3px")
HEIGHT = 420
LONG_PLACE = 12
"""Letters of a place from which on all stand upright."""


def probe_scores_figure(
    cells: pd.DataFrame, levels: Mapping[str, float], curves: Mapping[str, Sequence[float]], title: str, unit: str,
    across: str = "layer and site",
) -> go.Figure:  # fmt: skip
    """Scores by place.

    Args:
        cells: columns feature, place (text, in the order of the axis), value, low, high; one row a cell.
        across: what a place is.
        levels: reference -> its score where it is the same at all places. curves: reference -> its score at each place
            of the first kind of feature.
    """
    places = list(dict.fromkeys(cells.place))
    traces: list[dict[str, Any]] = []
    for number, (feature, rows) in enumerate(cells.groupby("feature", sort=False)):
        colour, symbol = COLOURS[number % len(COLOURS)], SYMBOLS[number % len(SYMBOLS)]
        traces.append({
            "type": "scatter", "mode": "lines+markers", "name": as_typed(str(feature)),
            "x": [as_typed(at) for at in rows.place],
            "y": rows.value.to_numpy(float), "line": {"color": colour, "width": 1.4},
            "marker": {"symbol": symbol, "size": 8},
            "error_y": {"array": (rows.high - rows.value).to_numpy(float), "thickness": 1, "width": 3,
                        "arrayminus": (rows.value - rows.low).to_numpy(float)},
            "hovertemplate": f"{as_typed(str(feature))}, %{{x}}: %{{y:.3f}} {as_typed(unit)}<extra></extra>",
        })  # fmt: skip
    first = cells[cells.feature == cells.feature.iloc[0]].place.to_numpy()
    flat = [(name, places, [level] * len(places)) for name, level in levels.items()]
    for number, (name, x, y) in enumerate([*flat, *((name, first, list(curve)) for name, curve in curves.items())]):
        traces.append({
            "type": "scatter", "mode": "lines", "name": as_typed(name), "x": [as_typed(at) for at in x], "y": y,
            "line": {"color": GREY, "dash": DASHES[number % len(DASHES)], "width": 1.2},
            "hovertemplate": f"{as_typed(name)}: %{{y:.3f}} {as_typed(unit)}<extra></extra>",
        })  # fmt: skip
    longest = max(map(len, places))
    upright = longest > LONG_PLACE
    more_px = upright * 6 * longest
    grid = {"gridcolor": "rgba(128,128,128,0.2)", "zeroline": False}
    layout = {
        "title": {"text": as_typed(title), "font": {"size": 14}},
        "legend": {"orientation": "h", "yref": "container", "y": 0.01, "yanchor": "bottom"},
        "xaxis": grid | {"title": {"text": as_typed(across), "standoff": 8}, "tickangle": 90 * upright,
                         "categoryorder": "array", "categoryarray": [as_typed(at) for at in places]},
        "yaxis": grid | {"title": as_typed(unit)},
    }  # fmt: skip
    figure = finish(go.Figure(data=traces, layout=layout), HEIGHT + more_px)
    return figure.update_layout(showlegend=True, margin_b=130 + more_px)
