"""One virtual head key by key: what its source attends to, how mixing weighs that, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures.style import NEGATIVE, POSITIVE, as_typed, finish

NEUTRAL = "#8a8a8a"
NAMED_UP_TO = 64
"""Keys are named by their tokens up to this many; beyond, by their numbers."""
ROWS = {"y3": (0.72, 1.0), "y2": (0.36, 0.64), "y": (0.0, 0.28)}
"""Bottom and top of the three rows of bars, the first one on top."""


def virtual_head_keys_figure(
    pattern: np.ndarray, mixing: np.ndarray, attribution: np.ndarray, tokens: Sequence[str], first: int = 0
) -> go.Figure:
    """Bars over keys: raw pattern of the source, M_post[source, target], and attribution.

    Args:
        pattern, mixing, attribution: [key]; the last one in logits.
        tokens: [key], as they are to be shown. first: position of the first key.
    """
    keys = np.arange(first, first + len(tokens))
    named = [f"key {key}: {as_typed(token)}" for key, token in zip(keys, tokens)]
    rows = zip(ROWS, (pattern, mixing, attribution), ("raw pattern", "M_post", "attribution"), strict=True)
    traces = [
        {"type": "bar", "x": keys, "y": values, "yaxis": axis, "hovertext": named,
         "marker": {"color": _colours(values)},
         "hovertemplate": f"%{{hovertext}}<br>{title} %{{y:+.4f}}<extra></extra>"}
        for axis, values, title in rows
    ]  # fmt: skip
    traces[0]["marker"] = {"color": NEUTRAL}  # a raw pattern has no sign
    return finish(go.Figure(data=traces, layout=_layout(keys, tokens)), 460).update_layout(margin_t=12, margin_l=72)


def _colours(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0, NEGATIVE, POSITIVE)


def _layout(keys: np.ndarray, tokens: Sequence[str]) -> dict[str, Any]:
    ticks: dict[str, Any] = {"anchor": "y", "showgrid": False, "zeroline": False,
                             "range": [keys[0] - 0.6, keys[-1] + 0.6]}  # fmt: skip
    if len(tokens) <= NAMED_UP_TO:
        ticks |= {"tickmode": "array", "tickvals": keys, "ticktext": list(map(as_typed, tokens)), "tickangle": -90,
                  "tickfont": {"size": 10}}  # fmt: skip
    line = {"gridcolor": "rgba(128,128,128,0.2)", "zerolinecolor": "rgba(128,128,128,0.6)", "rangemode": "tozero"}
    titles = {"y3": "raw pattern", "y2": "M_post", "y": "logits"}
    axes = {
        f"yaxis{axis[1:]}": line | {"domain": ROWS[axis], "nticks": 5, "title": {"text": title}}
        for axis, title in titles.items()
    }
    return {"bargap": 0.25, "xaxis": ticks} | axes
