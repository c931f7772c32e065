"""The viewer without a server: one HTML file for reports, an iframe for notebooks. Nothing is fetched."""

from __future__ import annotations

import base64
import json
from html import escape

from workbench.viewer.assets import JAVASCRIPT, STYLES
from workbench.viewer.encoding import encode_view
from workbench.viewer.view import MapView

STANDALONE_MAX_PX = 512
"""A file cannot ask for an exact window, so it carries more of the map than a page sends at first."""

_PAGE_STYLE = (
    "body{margin:12px;background:#fff;color:#31333f}"
    "@media(prefers-color-scheme:dark){body{background:#0e1117;color:#fafafa}}"
)


def fragment_html(view: MapView, *, height: int | None = None, max_px: int = STANDALONE_MAX_PX) -> str:
    """The place and the data of one view, for a page that also contains `script_html()` once."""
    payload = base64.b64encode(encode_view(view, height=height, max_px=max_px)).decode("ascii")
    return f'<div data-map-viewer="{payload}"><noscript>This map needs JavaScript.</noscript></div>'


def script_html() -> str:
    """The script that draws every fragment of its page; include it once, anywhere."""
    styles = json.dumps(STYLES).replace("</", "<\\/")
    return f'<script type="module">\n{JAVASCRIPT}\nmountFragments({styles});\n</script>'


def standalone_html(
    view: MapView, *, title: str = "Attention maps", height: int | None = None, max_px: int = STANDALONE_MAX_PX
) -> str:
    """A complete HTML document: hover, selection and zoom work offline.

    Args:
        height: greatest height of a panel in CSS pixels.
        max_px: rows and columns kept of each panel; about max_px squared bytes per panel before compression.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_PAGE_STYLE}</style></head>\n"
        f"<body>{fragment_html(view, height=height, max_px=max_px)}\n{script_html()}</body></html>\n"
    )


def notebook_html(view: MapView, *, height: int = 340) -> str:
    """The document inside an iframe, so that a notebook's styles and the viewer's do not meet.

    Args:
        height: greatest height of a panel in CSS pixels; the frame adds room for what stands around it.
    """
    document = escape(standalone_html(view, height=height))
    style = f"width:100%;height:{height + 300}px;border:0"
    return f'<iframe srcdoc="{document}" title="Attention maps" style="{style}"></iframe>'
