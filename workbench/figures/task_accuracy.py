"""Accuracy of models by family, rule or line, with intervals, against chance."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.figures.probe_scores import COLOURS, GREY, SYMBOLS
from workbench.figures.style import finish

MODEL_PX, GAP_PX, MARGINS_PX = 13, 14, 150
SPREAD = 0.6
"""Share of a group's height over which its models stand."""


def task_accuracy_figure(cells: pd.DataFrame, title: str = "") -> go.Figure:
    """Groups from top to bottom, each with a marker and an interval for every model and a grey line at chance.

    Args:
        cells: columns group, model, exact_match, low, high, chance and answers; one row a group and model.
    """
    groups, models = (list(dict.fromkeys(cells[name])) for name in ("group", "model"))
    places = {group: place for place, group in enumerate(groups)}
    figure = go.Figure([_chance(cells.drop_duplicates("group"), places)])
    for number, (model, rows) in enumerate(cells.groupby("model", sort=False)):
        offset = SPREAD * ((number + 0.5) / len(models) - 0.5)
        figure.add_trace(_points(str(model), rows, [places[group] + offset for group in rows.group], number))
    finish(figure, len(groups) * (GAP_PX + MODEL_PX * len(models)) + MARGINS_PX)
    grid = {"gridcolor": "rgba(128,128,128,0.2)", "zeroline": False}
    figure.update_layout(
        title={"text": title, "font": {"size": 14}}, showlegend=True, margin={"l": 150, "t": 42, "b": 96},
        legend={"orientation": "h", "yref": "container", "y": 0.005, "yanchor": "bottom"},
        xaxis=grid | {"title": {"text": "share of answers that are right", "standoff": 8}, "range": [-0.02, 1.02]},
        yaxis=grid | {"tickvals": list(places.values()), "ticktext": groups, "range": [len(groups) - 0.4, -0.6]},
    )  # fmt: skip
    return figure


def _chance(groups: pd.DataFrame, places: dict[str, int]) -> dict[str, Any]:
    """A vertical line through each group."""
    x = [value for chance in groups.chance for value in (chance, chance, None)]
    y = [value for group in groups.group for value in (places[group] - 0.45, places[group] + 0.45, None)]
    return {
        "type": "scatter", "mode": "lines", "name": "chance", "x": x, "y": y, "line": {"color": GREY, "width": 2},
        "hovertemplate": "chance: %{x:.3f}<extra></extra>",
    }  # fmt: skip


def _points(model: str, rows: pd.DataFrame, y: list[float], number: int) -> dict[str, Any]:
    about = rows[["group", "low", "high", "answers"]].to_numpy()
    return {
        "type": "scatter", "mode": "markers", "name": model, "x": rows.exact_match.to_numpy(float), "y": y,
        "marker": {"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8, "color": COLOURS[number % len(COLOURS)]},
        "error_x": {"array": (rows.high - rows.exact_match).to_numpy(float), "thickness": 1.4, "width": 3,
                    "arrayminus": (rows.exact_match - rows.low).to_numpy(float)},
        "customdata": about,
        "hovertemplate": f"{model}, %{{customdata[0]}}: %{{x:.3f}} [%{{customdata[1]:.3f}}, %{{customdata[2]:.3f}}] of "
        "%{customdata[3]} answers<extra></extra>",
    }  # fmt: skip
