"""Figures and maps with their files: pictures from the browser, HTML and numbers from here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from workbench.inline_plotly import figure_html
from workbench.pages.shared import PLOT
from workbench.pages.tables import plain
from workbench.viewer import MapView, standalone_html
from workbench.viewer.component import map_viewer
from workbench.viewer.events import MapEvent
from workbench.viewer.figure_saver import figure_saver
from workbench.viewer.files import csv_refusal, view_csv


def show_figure(figure: go.Figure, *, key: str, name: str, **arguments: Any) -> Any:
    """st.plotly_chart, and below it what saves the figure as PNG, SVG or HTML.

    Args:
        key: of the chart. name: of the files, without an ending. arguments: passed to st.plotly_chart.
    """
    shown = st.plotly_chart(figure, key=key, config=PLOT, **arguments)
    with _save_menu(f"{key} below-figure"):
        figure_saver(key, name, key=f"{key} pictures")
        _file("HTML", partial(figure_html, figure, name), f"{name}.html", "text/html", f"{key} html")
    return shown


def show_maps(
    view: MapView, *, key: str, name: str, height: int | None = None, again: Callable[[], MapView] | None = None
) -> MapEvent:
    """The canvas viewer (which saves PNG and SVG itself), and below it what saves HTML and CSV.

    Args:
        view, key, height: as for map_viewer. name: of the files, without an ending.
        again: makes the view once more when a file is asked for, so that the session need not hold large maps.
    """
    event = map_viewer(view, key=key, height=height, name=name)
    made = again or (lambda: view)
    with _save_menu(f"{key} below-maps"):
        _file("HTML", lambda: standalone_html(made(), title=name), f"{name}.html", "text/html", f"{key} html")
        if refusal := csv_refusal(view):
            st.caption(f"No CSV: {plain(refusal)}")
        else:
            _file("CSV", lambda: view_csv(made()), f"{name}.csv", "text/csv", f"{key} csv")
        st.caption("PNG and SVG: at the right edge below the maps.")
    return event


def _save_menu(key: str) -> Any:
    """A menu at the right edge, drawn up into the empty corner of what it belongs to (see shared.STYLE)."""
    place = st.container(horizontal=True, horizontal_alignment="right", key=key)
    return place.popover("Save", icon=":material/download:", type="tertiary", key=f"{key} menu")


def _file(label: str, data: Any, name: str, mime: str, key: str) -> None:
    st.download_button(label, data, name, mime, on_click="ignore", key=key, width="stretch")
