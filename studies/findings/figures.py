"""The figures of docs/findings.md, drawn from the tables in results/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from studies.pictures import COLOURS, screenshot

GREY, ORANGE = "#6f6f6f", "#d95f02"
KINDS = {
    "zero": ("zeroed", COLOURS["dcformer"]),
    "frozen": ("frozen to the mean", ORANGE),
    "shuffled": ("shuffled", GREY),
}
HEADS = {"raw": GREY, "composed": ORANGE, "plain": COLOURS["transformer"]}
DIVERSITY = {
    "pattern_cosine": "cosine of patterns",
    "output_similarity": "similarity of outputs (debiased CKA)",
    "score_rank": "effective rank of the score stack",
}


def draw_all(results: Path) -> None:
    """Write docs/images/findings_*.png."""
    screenshot(branches(pd.read_csv(results / "branches.csv")), "findings_branches")
    screenshot(diversity(pd.read_csv(results / "diversity.csv")), "findings_diversity")
    screenshot(estimates(pd.read_csv(results / "edges.csv")), "findings_estimates")
    screenshot(circuits(pd.read_csv(results / "circuits.csv")), "findings_circuits")


def branches(found: pd.DataFrame) -> go.Figure:
    """Loss increase by layer and site, all branches that depend on tokens."""
    figure = make_subplots(1, 2, subplot_titles=("M_pre", "M_post"), shared_yaxes=True)
    losses = found[(found.branch == "all") & (found.measure == "loss") & (found.layer.astype(str) != "every")]
    for (kind, (label, colour)), column in ((entry, column) for entry in KINDS.items() for column in (1, 2)):
        one = losses[(losses.kind == kind) & (losses.site == ("pre", "post")[column - 1])].sort_values("layer")
        _bars(figure, one.layer.astype(str), one, "change", label, colour, column)
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title="loss increase (nats per answer token)", col=1)
    return _laid_out(figure, 900)


def diversity(found: pd.DataFrame) -> go.Figure:
    """Diversity of raw, composed and plain heads by layer."""
    figure = make_subplots(1, len(DIVERSITY), subplot_titles=tuple(DIVERSITY.values()))
    for column, metric in enumerate(DIVERSITY, 1):
        for heads, colour in HEADS.items():
            one = found[(found.metric == metric) & (found.heads == heads)].sort_values("layer")
            figure.add_scatter(
                x=one.layer, y=one.value, error_y=_interval(one, "value"), mode="lines+markers", name=heads,
                line={"color": colour}, showlegend=column == 1, row=1, col=column,
            )  # fmt: skip
    figure.update_xaxes(title="layer", dtick=1)
    return _laid_out(figure, 1200)


def estimates(found: pd.DataFrame) -> go.Figure:
    """Gradient estimate against real cut, one point an edge; cube roots, since a few edges hold most."""
    figure = make_subplots(1, 2, subplot_titles=("M_pre", "M_post"), shared_yaxes=True)
    diagonal = _root(pd.Series([-0.02, 0.1]))
    for column, site in enumerate(("pre", "post"), 1):
        for own, label, colour in ((False, "between heads", COLOURS["dcformer"]), (True, "h->h", ORANGE)):
            one = found[(found.site == site) & ((found.source == found.target) == own)]
            figure.add_scatter(
                x=_root(one.estimate), y=_root(one.change), mode="markers", name=label, showlegend=column == 1,
                marker={"color": colour, "size": 6, "opacity": 0.7}, row=1, col=column,
            )  # fmt: skip
        figure.add_scatter(
            x=diagonal, y=diagonal, mode="lines", line={"color": GREY, "dash": "dot"}, showlegend=False,
            row=1, col=column,
        )  # fmt: skip
    ticks = [-0.03, -0.01, -0.001, 0, 0.001, 0.01, 0.03, 0.1, 0.3]
    shown = {"tickvals": [_root(tick) for tick in ticks], "ticktext": [f"{tick:g}" for tick in ticks]}
    figure.update_xaxes(title="estimated (nats)", tickangle=-45, **shown)
    figure.update_yaxes(title="really cut (nats)", col=1)
    figure.update_yaxes(**shown)
    return _laid_out(figure, 900, 480)


def circuits(found: pd.DataFrame) -> go.Figure:
    """Accuracy intact, without the virtual heads of a circuit, and without as many others."""
    figure = make_subplots(1, 1)
    accuracy = found[found.measure == "accuracy"]
    where = accuracy.groupby("task").family.first()
    names = [f"{family} ({task})" for task, family in where.items()]
    intact = accuracy.groupby("task").intact.first()
    figure.add_bar(x=names, y=intact, name="intact", marker_color=GREY)
    cut = accuracy[accuracy.what == "cut"].set_index("task").loc[where.index]
    _bars(figure, names, cut, "value", "all eight cut", COLOURS["dcformer"], 1)
    others = accuracy[accuracy.what == "cut others"].groupby("task").value
    figure.add_bar(
        x=names, y=others.mean(), name="eight others cut, mean and range of five draws", marker_color=ORANGE,
        error_y={"array": others.max() - others.mean(), "arrayminus": others.mean() - others.min()},
    )  # fmt: skip
    figure.update_yaxes(title="share of answers right", range=[0, 1.05])
    return _laid_out(figure, 900)


def _bars(
    figure: go.Figure, x: object, table: pd.DataFrame, of: str, label: str, colour: str, column: int
) -> None:  # fmt: skip
    change = _interval(table, "change")
    figure.add_bar(x=x, y=table[of], error_y=change, name=label, marker_color=colour, showlegend=column == 1,
                   row=1, col=column)  # fmt: skip


def _interval(table: pd.DataFrame, of: str) -> dict[str, object]:
    return {"array": table.high - table[of], "arrayminus": table[of] - table.low, "thickness": 1}


def _root(number: Any) -> Any:
    return np.cbrt(number)


def _laid_out(figure: go.Figure, width: int, height: int = 400) -> go.Figure:
    return figure.update_layout(
        width=width, height=height, template="plotly_white", margin={"t": 40, "r": 20, "l": 60, "b": 90},
        legend={"orientation": "h", "y": -0.22}, barmode="group",
    )  # fmt: skip
