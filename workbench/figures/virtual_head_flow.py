"""The strongest virtual heads of a layer as a flow from source patterns to target values."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures.style import finish

SIGNS = {True: "rgba(178, 24, 43, 0.45)", False: "rgba(33, 102, 172, 0.45)"}
"""Colour of what adds, and of what takes away."""
NODE = "#8a8a8a"


def virtual_head_flow_figure(attribution: np.ndarray, count: int, dark: bool = False) -> go.Figure:
    """A band from source g's pattern to target h's values for each of the largest virtual heads.

    The width of a band is its |attribution|, its colour the sign: red adds, blue takes away.

    Args:
        attribution: [source, target] in logits. count: how many bands.
        dark: whether the page is, which decides the colour of the names that stand on the bands.
    """
    heads = len(attribution)
    edges = largest_edges(attribution, count)
    sources, targets = (sorted({edge[side] for edge in edges}) for side in (0, 1))
    at = {("source", g): n for n, g in enumerate(sources)}
    at |= {("target", h): len(sources) + n for n, h in enumerate(targets)}
    values = np.array([attribution[edge] for edge in edges])
    links: dict[str, Any] = {
        "source": [at["source", g] for g, _ in edges], "target": [at["target", h] for _, h in edges],
        "value": np.abs(values), "color": [SIGNS[bool(value >= 0)] for value in values], "customdata": values,
        "label": [f"source {g} → target {h}" for g, h in edges],
        "hovertemplate": "%{label}: %{customdata:+.4f} logits<extra></extra>",
    }  # fmt: skip
    names = [f"pattern of source {g}" for g in sources] + [f"values of target {h}" for h in targets]
    nodes = {"label": names, "color": NODE, "pad": 10, "thickness": 12, "line": {"width": 0},
             "hovertemplate": "%{label}: %{value:.4f} logits, signs left out<extra></extra>"}  # fmt: skip
    figure = go.Figure(
        go.Sankey(node=nodes, link=links, textfont={"size": 12, "shadow": "none", "color": "#fff" if dark else "#111"})
    )
    return finish(figure, max(260, 42 * min(heads, len(sources) + 2))).update_layout(margin={"t": 12, "b": 16, "l": 12})


def largest_edges(attribution: np.ndarray, count: int) -> list[tuple[int, int]]:
    """(source, target) of the virtual heads of largest |attribution|, the largest first; none that is 0."""
    order = np.argsort(-np.abs(attribution), axis=None, kind="stable")[:count]
    edges = [divmod(int(flat), attribution.shape[1]) for flat in order]
    return [edge for edge in edges if attribution[edge]]
