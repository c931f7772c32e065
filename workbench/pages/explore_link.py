"""A button that opens the Explore page at a head."""

from __future__ import annotations

from typing import NoReturn

import streamlit as st

from model import Capture
from workbench import views
from workbench.links import pack_text
from workbench.pages.shared import UNDER, attempt, workbench
from workbench.views import Selection


def explore_button(
    question: tuple[str, str], run: Capture, layer: int, head: int, query: int | None = None, key: int | None = None,
    label: str | None = None,
) -> None:  # fmt: skip
    """Offer to open Explore at a head of the chosen prompt.

    Args:
        question: model name and prompt, and run their capture.
        query, key: where to look; None = at the last token, and at the key that the head weighs most.
        label: of the button, if it is not to say the head alone.
    """
    text = label or f"Open layer {layer}, head {head} in Explore"
    if st.button(text, icon=":material/open_in_new:", key=f"explore {text}"):
        at = attempt(lambda: views.chosen_selection(run, layer, head, query, key))
        open_in_explore(*question, at)


def open_in_explore(model: str, prompt: str, at: Selection) -> NoReturn:
    """Go to Explore, at a place of a model and prompt, as a link would.

    Args:
        model: a name as Workbench takes it, so that it may carry a change.
    """
    name, change = workbench().parts(model)
    place = f"{at.layer}.{at.head}.{at.query}.{at.key}"
    said = {"model": name, "prompt": pack_text(prompt), "at": place} | ({UNDER: pack_text(change)} if change else {})
    st.switch_page("workbench/pages/explore.py", query_params=said)
