"""What every page begins with: the shared workbench, a model, a prompt, and errors as messages."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import TypeVar

import streamlit as st

from model import Capture
from workbench.session import Workbench

Value = TypeVar("Value")

EXAMPLES = {
    "Who has it?": "< Mary has an apple. John has a violin. Paul has a bus. >. Who has violin?",
    "Who does not?": "< Rose has a wolf. Paul has a train. Rose has a lemon. >. Who does not have a kind of fruit?",
    "A kind of thing": "< Mary has an apple. John has a violin. John has a bus. >. John does not have a kind of",
    "Odd one out": "There are a sword, a bee, a sword. Which is different? The",
    "Two lines of one rule": (
        "< Alice likes Paris. James likes Tokyo. James likes Cairo. >. James does not yearn for the city in France\n"
        "< Nancy likes Milan. Keith likes Seoul. Nancy likes Porto. >. Nancy does not yearn for the city in"
    ),
    "Repeated words": " apple violin wolf bus apple violin wolf bus apple violin wolf bus apple violin",
}


PLOT = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}
"""How plotly's charts behave on every page."""


@st.cache_resource
def workbench() -> Workbench:
    """One for the process: models and captures are shared by all sessions."""
    # Streamlit collects garbage after each run of a page, over half a million objects of imported libraries: a quarter
    # of a second that stops every other thread too, unless these objects are set apart
    gc.collect()
    gc.freeze()
    return Workbench(model_folder=os.environ.get("WORKBENCH_MODELS"))


def attempt(action: Callable[[], Value]) -> Value:
    """The result of an action, or its error as one message on the page, which then stops."""
    try:
        return action()
    except (ValueError, TypeError, OSError) as error:
        st.error(str(error), icon=":material/error:")
        st.stop()


def roomy() -> None:
    """Streamlit's own margins would leave no room for three maps side by side at 1280 px."""
    st.html("<style>.stMainBlockContainer { padding: 3rem 2rem 4rem; }</style>")


def choose_run(bench: Workbench, page: str) -> tuple[str, str, Capture]:
    """Model and prompt from the sidebar, and their capture; all pages share what was chosen.

    Args:
        page: the name of the page that asks.
    """
    roomy()
    _take_along(page)
    with st.sidebar:
        name = st.selectbox("Model", attempt(bench.model_names), key="model", persist_state="session")
        st.selectbox("Example prompt", list(EXAMPLES), key="example", on_change=_take_example, persist_state="session")
        st.session_state.setdefault("prompt", next(iter(EXAMPLES.values())))
        prompt = st.text_area("Prompt", height=160, key="prompt", help="Ctrl + Enter runs it.", persist_state="session")
    if not prompt:
        st.info("Type a prompt on the left to see how the heads are composed on it.", icon=":material/edit:")
        st.stop()
    with st.spinner("Running the model ...", show_time=True):
        return name, prompt, attempt(lambda: bench.capture(name, prompt))


def _take_along(page: str) -> None:
    """Where another page was shown last, take over what was chosen there: to Streamlit these are other widgets."""
    if st.session_state.get("page") == page:
        return  # assigning in every run would undo what a person types while the page answers
    st.session_state.page = page
    for key in ("model", "example", "prompt"):
        if key in st.session_state:
            st.session_state[key] = st.session_state[key]


def _take_example() -> None:
    st.session_state.prompt = EXAMPLES[st.session_state.example]
