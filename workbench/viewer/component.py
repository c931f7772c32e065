"""The viewer on a Streamlit page."""

from __future__ import annotations

from typing import Any

import streamlit as st

from workbench.viewer.assets import JAVASCRIPT, STYLES
from workbench.viewer.encoding import encode_view
from workbench.viewer.events import MapEvent, parse_event
from workbench.viewer.view import MapView

_canvas = st.components.v2.component("dcformer_workbench_map_viewer", js=JAVASCRIPT, css=STYLES)


def map_viewer(view: MapView, *, key: str, height: int | None = None, name: str = "maps") -> MapEvent:
    """Show a view, and return what the person did to it since the last run.

    The answer to an event is the next view: `selected=` the picked cell, `window=` the wanted region with panels for
    that region (None when the event's window is the whole map). An event is returned once, so keep it in
    st.session_state; `read_event` gives it before the view is built, which saves a second run of the page.

    Args:
        key: unique on the page; keeps zoom and focus over reruns.
        height: greatest height of a panel in CSS pixels.
        name: of the files that pictures are saved as.
    """
    result = _canvas(
        key=key,
        data=encode_view(view, height=height, name=name),
        on_pick_change=_nothing,
        on_window_change=_nothing,
    )
    return parse_event(result.get("pick"), result.get("window"), view.full_size)


def read_event(key: str, size: tuple[int, int]) -> MapEvent:
    """What `map_viewer` with this key is going to return in this run, readable before it is called.

    Args:
        size: (rows, columns) of the full map the event is to be used with.
    """
    state: Any = st.session_state.get(key) or {}
    return parse_event(state.get("pick"), state.get("window"), size)


def _nothing() -> None:
    """A trigger is only returned when it has a callback."""
