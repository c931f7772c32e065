"""All heads of a layer as small maps, one of which is chosen."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import streamlit as st

from workbench.viewer.assets import joined_scripts
from workbench.viewer.encoding import SMALL_PX, encode_view
from workbench.viewer.view import MapView

_HERE = Path(__file__).parent / "js"
_mount = st.components.v2.component(
    "dcformer_thumbnails",
    html='<div class="thumbnails" role="listbox" aria-label="Heads" data-testid="thumbnails"></div>',
    css=(_HERE / "thumbnails.css").read_text(),
    js=joined_scripts("payload", "geometry", "colours", "paint", "elements", "thumbnails"),
)


def thumbnails(view: MapView, chosen: int, *, key: str, on_choice: Callable[[int], None]) -> None:
    """Draw the panels of a view as thumbnails.

    Args:
        chosen: the number of the panel that is framed. on_choice: called with the number of a clicked panel before
            the page runs again.
    """

    def callback() -> None:
        picked = getattr(st.session_state.get(key), "head", None)
        if type(picked) is int and 0 <= picked < len(view.panels):
            on_choice(picked)

    packed = base64.b64encode(encode_view(view, max_px=SMALL_PX)).decode("ascii")
    data = {"maps": packed, "chosen": chosen}
    _mount(key=key, data=data, on_head_change=callback)
