"""Canvas viewer for attention maps: signed [query, key] matrices up to thousands of tokens, drawn in the browser.

``view.py`` says what is shown, ``encoding.py`` turns it into bytes, ``js/`` draws the bytes, ``standalone.py`` puts
both into one HTML file, ``component.py`` puts them on a page and
``token_strip.py`` is the prompt beside them. Of these the last two alone import streamlit.
"""

from workbench.viewer.encoding import block_around, encode_view, reduce_map
from workbench.viewer.events import MapEvent
from workbench.viewer.standalone import fragment_html, notebook_html, script_html, standalone_html
from workbench.viewer.view import Cell, Labels, MapView, Panel, Window, max_abs

__all__ = [
    "Cell",
    "Labels",
    "MapEvent",
    "MapView",
    "Panel",
    "Window",
    "block_around",
    "encode_view",
    "fragment_html",
    "max_abs",
    "notebook_html",
    "reduce_map",
    "script_html",
    "standalone_html",
]
