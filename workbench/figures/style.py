"""Colours and layout that every figure shares."""

from __future__ import annotations

import plotly.graph_objects as go

# blue - white - red of ColorBrewer's RdBu, told apart by every common kind of colour blindness
DIVERGING = [
    [0.0, "#2166ac"], [0.25, "#92c5de"], [0.5, "#f7f7f7"], [0.75, "#f4a582"], [1.0, "#b2182b"],
]  # fmt: skip
POSITIVE, NEGATIVE = "#b2182b", "#2166ac"


def as_typed(text: str) -> str:
    """The text as plotly is to be given it: plotly reads <b> and &lt; as markup, and %{x} in a template as a value.

    Every token, and every name that is not of this package, goes through it, in ticks, titles, legends and hover alike.
    """
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("%{", "%&#123;")


def finish(figure: go.Figure, height: int) -> go.Figure:
    """Transparent ground (the page's theme shows through), small margins, no animation."""
    figure.update_layout(
        height=height,
        margin={"l": 56, "r": 12, "t": 42, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 12},
        showlegend=False,
    )
    return figure
