"""Two runs: loss and divergence, position by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.figures.style import NEGATIVE, POSITIVE, as_typed, finish

NEUTRAL = "#8a8a8a"
NAMED_UP_TO = 64
"""Positions are named by their tokens up to this many; beyond, by their numbers."""


def changed_tokens_figure(
    loss_intact: np.ndarray, loss_changed: np.ndarray, kl: np.ndarray, tokens: Sequence[str], position: int,
    names: tuple[str, str] = ("intact", "changed"), places_named: Sequence[str] | None = None,
) -> go.Figure:  # fmt: skip
    """Above: the loss of the token after each position, from intact (tick) to changed (end of the bar), red where it
    rose and blue where it fell. Below: KL(intact || changed).

    Args:
        loss_intact, loss_changed, kl: nats, [T]; nan is left out.
        tokens: [T], as they are to be shown. position: the one that is marked.
        names: of the two runs, where these are not a model and its change.
        places_named: [T], what hovering says of each place; None = its number, its token and the one after it.
    """
    places = np.arange(len(tokens))
    change = loss_changed - loss_intact
    about = np.stack([loss_intact, loss_changed, change, kl], axis=1)
    hover = list(map(as_typed, places_named or named_places(tokens)))
    traces = [
        {"type": "bar", "x": places, "y": change, "base": loss_intact, "customdata": about, "hovertext": hover,
         "marker": {"color": np.where(change < 0, NEGATIVE, POSITIVE)}, "yaxis": "y2",
         "hovertemplate": _loss_text(names)},
        {"type": "scatter", "x": places, "y": loss_intact, "mode": "markers", "yaxis": "y2", "hoverinfo": "skip",
         "marker": {"symbol": "line-ew", "size": 9, "line": {"width": 2, "color": NEUTRAL}}},
        {"type": "bar", "x": places, "y": kl, "customdata": about, "hovertext": hover, "hovertemplate": _KL,
         "marker": {"color": NEUTRAL}},
    ]  # fmt: skip
    return finish(go.Figure(data=traces, layout=_layout(tokens, position)), 400).update_layout(margin_t=12)


def named_places(tokens: Sequence[str]) -> list[str]:
    """Of each position: its number, its token, and the token after it."""
    return [
        f"after {at} {token}: {after or 'the end'}" for at, (token, after) in enumerate(zip(tokens, [*tokens[1:], ""]))
    ]


def _loss_text(names: tuple[str, str]) -> str:
    intact, changed = map(as_typed, names)
    return (
        f"%{{hovertext}}<br>loss {intact} %{{customdata[0]:.4f}}, {changed} %{{customdata[1]:.4f}}"
        "<br>change %{customdata[2]:+.4f} nats<extra></extra>"
    )


_KL = "%{hovertext}<br>KL %{customdata[3]:.4f} nats<extra></extra>"


def _layout(tokens: Sequence[str], position: int) -> dict[str, Any]:
    ticks: dict[str, Any] = {"anchor": "y", "showgrid": False, "zeroline": False, "range": [-0.6, len(tokens) - 0.4]}
    if len(tokens) <= NAMED_UP_TO:
        ticks |= {"tickmode": "array", "tickvals": list(range(len(tokens))), "ticktext": list(map(as_typed, tokens)),
                  "tickangle": -90, "tickfont": {"size": 10}}  # fmt: skip
    line = {"gridcolor": "rgba(128,128,128,0.2)", "zerolinecolor": "rgba(128,128,128,0.6)", "rangemode": "tozero"}
    return {
        "bargap": 0.25, "xaxis": ticks,
        "yaxis": line | {"domain": (0.0, 0.34), "title": {"text": "KL (nats)"}},
        "yaxis2": line | {"domain": (0.44, 1.0), "title": {"text": "loss (nats)"}},
        "shapes": [{"type": "rect", "xref": "x", "yref": "paper", "x0": position - 0.5, "x1": position + 0.5, "y0": 0,
                    "y1": 1, "line": {"width": 0}, "fillcolor": "rgba(128,128,128,0.18)", "layer": "below"}],
    }  # fmt: skip
