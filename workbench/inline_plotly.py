"""Plotly inside an HTML file that is read offline: its script once, compressed, and figures as data."""

from __future__ import annotations

import base64
import gzip

import plotly.graph_objects as go
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

_SCRIPT = """<script type="text/plain" id="plotly-gzip">{packed}</script>
<script>
(async () => {{
  const packed = Uint8Array.from(atob(document.getElementById("plotly-gzip").textContent), (c) => c.charCodeAt(0));
  const code = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(code).text();
  document.head.append(script);
  for (const place of document.querySelectorAll(".figure")) {{
    const figure = JSON.parse(place.nextElementSibling.textContent);
    Plotly.newPlot(place, figure.data, figure.layout, {{responsive: true, displaylogo: false}});
  }}
}})();
</script>"""
"""Draws every figure_json that stands behind an element of class figure. A third of the script's size uncompressed."""


def figure_json(figure: go.Figure) -> Markup:
    """A figure as the content of <script type="application/json">: no text of it can end the element."""
    return Markup(str(figure.to_json()).replace("<", "\\u003c"))


def figure_html(figure: go.Figure, title: str) -> str:
    """A figure as an HTML file of its own: hover, zoom and saving work offline."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title></head><body>'
        f'<div class="figure"></div><script type="application/json">{figure_json(figure)}</script>\n'
        f"{plotly_script()}</body></html>\n"
    )


def plotly_script() -> Markup:
    """What stands once at the end of such a file."""
    packed = gzip.compress(get_plotlyjs().encode(), mtime=0)
    return Markup(_SCRIPT.format(packed=base64.b64encode(packed).decode()))
