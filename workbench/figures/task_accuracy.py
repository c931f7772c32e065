"""Accuracy of models by family, rule or line with intervals, against chance, and differences of models against 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures.probe_scores import COLOURS, GREY, SYMBOLS
from workbench.figures.style import as_typed, finish

MODEL_PX, GAP_PX, MARGINS_PX = 13, 14, 120
SPREAD = 0.6
"""Share of a group's height over which its models stand."""


def task_accuracy_figure(cells: pd.DataFrame) -> go.Figure:
    """Groups from top to bottom, each with a marker and an interval for every model and a grey line at chance.

    Args:
        cells: columns group, model, exact_match, low, high, chance and answers; one row a group and model.
    """
    groups = list(dict.fromkeys(cells.group))
    about = (
        "{series}, %{customdata[0]}: %{x:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}] of %{customdata[3]} answers"
    )
    points = _points(cells, groups, "model", "exact_match", ["low", "high", "answers"], about)
    figure = go.Figure([_lines("chance", cells.drop_duplicates("group").chance), *points])
    return _laid_out(figure, groups, len(points), "share of answers that are right", [-0.02, 1.02])


def task_differences_figure(cells: pd.DataFrame, first: str) -> go.Figure:
    """Groups from top to bottom, each with the first model minus every other one and its interval; a grey line at 0.

    Args:
        cells: columns group, against, difference, low, high, p_holm; one row a group and other model. first: its name.
    """
    groups = list(dict.fromkeys(cells.group))
    about = (
        "{series}, %{customdata[0]}: %{x:+.3f} [%{customdata[1]:+.3f}, %{customdata[2]:+.3f}], p %{customdata[3]:.2g}"
    )
    points = _points(cells, groups, "against", "difference", ["low", "high", "p_holm"], about)
    figure = go.Figure([_lines("no difference", pd.Series([0.0] * len(groups))), *points])
    ends = cells[["difference", "low", "high"]].abs().to_numpy(float)
    reach = 1.08 * max(float(np.nanmax(ends)), 0.01)
    return _laid_out(
        figure, groups, len(points), f"{as_typed(first)} minus the other: share of answers", [-reach, reach]
    )


def _lines(name: str, values: pd.Series) -> dict[str, Any]:
    """A vertical line through each group."""
    x = [one for value in values for one in (value, value, None)]
    y = [one for place in range(len(values)) for one in (place - 0.45, place + 0.45, None)]
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "line": {"color": GREY, "width": 2},
        "hovertemplate": f"{name}: %{{x:.3f}}<extra></extra>",
    }  # fmt: skip


def _points(
    cells: pd.DataFrame, groups: list[str], series: str, value: str, more: list[str], about: str
) -> list[dict[str, Any]]:
    """A trace for each of a series, side by side within its group."""
    traces = []
    for number, (name, rows) in enumerate(cells.groupby(series, sort=False)):
        offset = SPREAD * ((number + 0.5) / cells[series].nunique() - 0.5)
        x = rows[value].to_numpy(float)
        traces.append({
            "type": "scatter", "mode": "markers", "name": as_typed(str(name)), "x": x,
            "y": [groups.index(group) + offset for group in rows.group],
            "marker": {"symbol": SYMBOLS[number % len(SYMBOLS)], "size": 8, "color": COLOURS[number % len(COLOURS)]},
            "error_x": {"array": rows.high.to_numpy(float) - x, "arrayminus": x - rows.low.to_numpy(float),
                        "thickness": 1.4, "width": 3},
            "customdata": rows[["group", *more]].assign(group=rows.group.map(as_typed)).to_numpy(),
            "hovertemplate": about.replace("{series}", as_typed(str(name))) + "<extra></extra>",
        })  # fmt: skip
    return traces


def _laid_out(figure: go.Figure, groups: list[str], series: int, title: str, reach: list[float]) -> go.Figure:
    finish(figure, len(groups) * (GAP_PX + MODEL_PX * series) + MARGINS_PX)
    names = list(map(as_typed, groups))
    grid = {"gridcolor": "rgba(128,128,128,0.2)", "zeroline": False}
    return figure.update_layout(
        showlegend=True, margin={"l": 150, "t": 12, "b": 96},
        legend={"orientation": "h", "yref": "container", "y": 0.005, "yanchor": "bottom"},
        xaxis=grid | {"title": {"text": title, "standoff": 8}, "range": reach},
        yaxis=grid | {"tickvals": list(range(len(groups))), "ticktext": names, "range": [len(groups) - 0.4, -0.6]},
    )  # fmt: skip
