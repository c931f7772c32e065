"""Buttons that save a plotly figure of the page as PNG or SVG, drawn by the browser that shows it."""

from __future__ import annotations

import re
from pathlib import Path

import streamlit as st

from workbench.viewer.assets import joined_scripts

_HERE = Path(__file__).parent / "js"
_mount = st.components.v2.component(
    "dcformer_figure_saver",
    html='<div class="kinds"><button type="button" data-kind="png">PNG</button>'
    '<button type="button" data-kind="svg">SVG</button></div>',
    css=(_HERE / "figure_saver.css").read_text(),
    js=joined_scripts("saving", "figure_saver"),
)


def figure_saver(figure_key: str, name: str, *, key: str) -> None:
    """Draw the two buttons.

    Args:
        figure_key: key of the st.plotly_chart on this page. name: of the file, without its ending.
    """
    _mount(key=key, data={"figure": css_name(figure_key), "name": name})


def css_name(key: str) -> str:
    """What Streamlit makes of a key in the class st-key-... of its element."""
    return re.sub(r"[^a-zA-Z0-9_-]", "-", key.strip())
