"""The same attention maps as HTML files: by our canvas viewer, plotly, BertViz and CircuitsVis."""

from __future__ import annotations

import io
import re
import tarfile
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import plotly.graph_objects as go
import torch

from workbench.viewer import Labels, MapView, Panel, max_abs, standalone_html
from workbench.viewer.encoding import SMALL_PX
from workbench.viewer.standalone import STANDALONE_MAX_PX


@dataclass(frozen=True, eq=False)
class Maps:
    """The pattern of one layer, [head, query, key] in float32, 0 where a query may not see a key; and its tokens."""

    raw: np.ndarray
    composed: np.ndarray
    tokens: list[str]

    def first(self, tokens: int) -> Maps:
        """Of the prompt's first tokens: attention is causal, so that they are what the shorter prompt gives."""
        cut = np.s_[:, :tokens, :tokens]
        raw, composed = (np.ascontiguousarray(maps[cut]) for maps in (self.raw, self.composed))
        return Maps(raw, composed, self.tokens[:tokens])


@dataclass(frozen=True)
class Viewer:
    """One way of drawing maps.

    Attributes:
        shows: what of the maps is in the file.
        page: the HTML file. drawn: JavaScript, a function of {heads, tokens} that is true once all of it stands.
        drawn_means: the same in words.
        scripts: what the file loads from elsewhere, URL -> (npm package, version, file) that is served in its place.
    """

    name: str
    shows: str
    page: Callable[[Maps], str]
    drawn: str
    drawn_means: str
    scripts: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)


# -- our canvas viewer -------------------------------------------------------------------------------


def one_head_page(maps: Maps) -> str:
    raw, composed = maps.raw[0], maps.composed[0]
    return _canvas_page({"raw": raw, "composed": composed, "composed - raw": composed - raw}, maps, STANDALONE_MAX_PX)


def all_heads_page(maps: Maps) -> str:
    return _canvas_page(_by_head(maps), maps, STANDALONE_MAX_PX)


def small_maps_page(maps: Maps) -> str:
    return _canvas_page(_by_head(maps), maps, SMALL_PX)


def _by_head(maps: Maps) -> dict[str, np.ndarray]:
    return {f"H{head}": values for head, values in enumerate(maps.composed)}


def _canvas_page(shown: Mapping[str, np.ndarray], maps: Maps, max_px: int) -> str:
    hidden = np.triu(np.ones((len(maps.tokens), len(maps.tokens)), bool), 1)
    scale = max_abs(*shown.values())
    panels = [Panel(title, np.where(hidden, np.nan, values), scale=scale) for title, values in shown.items()]
    return standalone_html(MapView(panels, Labels("query", maps.tokens), Labels("key", maps.tokens)), max_px=max_px)


CANVAS_DRAWN = """() => {
  const root = document.querySelector('[data-map-viewer]')?.shadowRoot?.querySelector('.map-viewer');
  return root?.dataset.state === 'ready';
}"""


# -- others ------------------------------------------------------------------------------------------


def plotly_page(maps: Maps) -> str:
    scale = max_abs(maps.composed)
    figures = []
    for head, values in enumerate(maps.composed):
        heatmap = go.Heatmap(z=values, zmin=-scale, zmax=scale, colorscale="RdBu_r")
        figure = go.Figure(
            heatmap, {"title": f"H{head}", "width": 500, "height": 500, "yaxis": {"autorange": "reversed"}}
        )
        figures.append(figure.to_html(full_html=False, include_plotlyjs=head == 0))
    return f"<!doctype html><html><body>{''.join(figures)}</body></html>"


PLOTLY_DRAWN = (
    "({heads}) => [...document.querySelectorAll('.heatmaplayer .hm image')]"
    ".filter(image => image.getAttribute('xlink:href') || image.getAttribute('href')).length === heads"
)


def bertviz_page(maps: Maps) -> str:
    from bertviz import head_view  # of requirements-viewers.txt, which only this benchmark needs

    shown = head_view([torch.from_numpy(maps.composed)[None]], maps.tokens, html_action="return")
    return f"<!doctype html><html><body>{shown.data}</body></html>"


BERTVIZ_DRAWN = """({heads, tokens}) => {
  const [left, right, lines, boxes] = document.querySelectorAll('#vis > svg > g');
  return boxes?.children.length === heads && lines.getElementsByTagName('line').length === heads * tokens * tokens;
}"""
BERTVIZ_SCRIPTS = {
    "https://cdnjs.cloudflare.com/ajax/libs/require.js/2.3.6/require.min.js": ("requirejs", "2.3.6", "require.js"),
    "https://cdnjs.cloudflare.com/ajax/libs/d3/5.7.0/d3.min.js": ("d3", "5.7.0", "dist/d3.min.js"),
    # npm has no 2.0.0
    "https://cdnjs.cloudflare.com/ajax/libs/jquery/2.0.0/jquery.min.js": ("jquery", "2.1.0", "dist/jquery.min.js"),
}


def circuitsvis_page(maps: Maps) -> str:
    from circuitsvis.attention import attention_patterns

    # the source that it shows when offline, with its whole bundle inside
    shown = attention_patterns(maps.tokens, maps.composed).local_src
    return f'<!doctype html><html><head><meta charset="utf-8"></head><body>{shown}</body></html>'


CIRCUITSVIS_DRAWN = """({heads, tokens}) => {
  const canvases = [...document.querySelectorAll('canvas')].filter(one => one.width === tokens);
  return canvases.length === heads + 1 && document.querySelectorAll('.tokens button').length === tokens;
}"""


def circuitsvis_heads_page(maps: Maps) -> str:
    from circuitsvis.attention import attention_heads

    shown = attention_heads(maps.composed, maps.tokens).local_src
    return f'<!doctype html><html><head><meta charset="utf-8"></head><body>{shown}</body></html>'


CIRCUITSVIS_HEADS_DRAWN = """({heads}) => {
  const painted = (canvas) => [0.25, 0.75].every((share) => canvas.getContext('2d')
    .getImageData(Math.floor(share * canvas.width), Math.floor((1 - share) * canvas.height), 1, 1).data[3] > 0);
  const canvases = [...document.querySelectorAll('canvas')];
  return canvases.length === heads + 1 && canvases.every(painted);
}"""


VIEWERS = [
    Viewer(
        "canvas, one head", "raw, composed, difference", one_head_page, CANVAS_DRAWN,
        "the viewer says it is ready",
    ),
    Viewer("canvas, small maps", f"all heads, {SMALL_PX} px each", small_maps_page, CANVAS_DRAWN, "as above"),
    Viewer("canvas, all heads", f"all heads, {STANDALONE_MAX_PX} px each", all_heads_page, CANVAS_DRAWN, "as above"),
    Viewer("plotly", "all heads, a go.Heatmap each", plotly_page, PLOTLY_DRAWN, "every heatmap has its image"),
    Viewer(
        "BertViz", "all heads, head_view", bertviz_page, BERTVIZ_DRAWN,
        "there is a line for every cell of every head, and the boxes that it makes last", BERTVIZ_SCRIPTS,
    ),
    Viewer(
        "CircuitsVis", "all heads, attention_patterns", circuitsvis_page, CIRCUITSVIS_DRAWN,
        "the canvas of every head has the size of its map, and every token its button",
    ),
    Viewer(
        "CircuitsVis heads", "all heads, attention_heads", circuitsvis_heads_page, CIRCUITSVIS_HEADS_DRAWN,
        "every canvas is painted on both sides of the diagonal",
    ),
]  # fmt: skip


def npm_script(package: str, version: str, path: str) -> bytes:
    """One file of a package on the npm registry."""
    address = f"https://registry.npmjs.org/{package}/-/{re.sub('.*/', '', package)}-{version}.tgz"
    with urllib.request.urlopen(address, timeout=60) as answer, tarfile.open(fileobj=io.BytesIO(answer.read())) as tar:
        found = tar.extractfile(f"package/{path}")
        assert found is not None
        return found.read()
