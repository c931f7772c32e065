"""What every page begins with: the shared workbench, a model, a prompt, and errors as messages."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import streamlit as st

from model import Capture
from workbench.access import model_folders
from workbench.drafts import label, loaded
from workbench.links import Field, choice_field, text_field
from workbench.pages.address import end
from workbench.pages.tables import plain
from workbench.pages.task_row_choice import task_row_choice
from workbench.serving.wording import for_browser
from workbench.session import Workbench
from workbench.turns import telling

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
    return Workbench(model_folders())


def attempt(action: Callable[[], Value]) -> Value:
    """As waited, with an error as one message on the page, which then stops."""
    try:
        return waited(action)
    except (ValueError, TypeError, OSError) as error:
        st.error(told(error), icon=":material/error:")
        end()


def told(error: Exception) -> str:
    """What an error says, in Markdown: as text, and without the folders of this machine."""
    return plain(for_browser(error))


def waited(action: Callable[[], Value]) -> Value:
    """The result of an action; while it waits for a model that others use, the page says how many come first."""
    with telling(_Line().show):
        return action()


class _Line:
    """The place in a queue as a message, which appears only where somebody waits."""

    def __init__(self) -> None:
        self._place: Any = None

    def show(self, before: int) -> None:
        self._place = self._place or st.empty()
        if before:
            people = "one request comes" if before == 1 else f"{before} requests come"
            self._place.info(f"This model is in use: {people} before yours.", icon=":material/hourglass_top:")
        else:
            self._place.empty()


STYLE = """<style>
.stMainBlockContainer { padding: 3rem 2rem 4rem; }
[class*="below-maps"]:not([class*="menu"]) {
  margin-top: -3.2rem; position: relative; z-index: 1; pointer-events: none; /* the viewer's own buttons lie under it */
}
[class*="below-maps"]:not([class*="menu"]) > * { pointer-events: auto; }
[class*="below-figure"]:not([class*="menu"]) { margin-top: -1.6rem; }
</style>"""
"""Streamlit's own margins would leave no room for three maps side by side at 1280 px."""


def roomy() -> None:
    """Lay the page out for pictures."""
    st.html(STYLE)


SAVED = "saved changes"
"""Key of the changes that this session can put in place, in st.session_state: JSON -> a few words."""
UNDER = "under"


_NAMES = "model names of this run"


def begin_with_model_names(bench: Workbench) -> list[str]:
    """Every model that can be chosen, read from the folders: once a run of a page, for what its URL may say."""
    st.session_state[_NAMES] = attempt(bench.model_names)
    return st.session_state[_NAMES]


def model_names() -> list[str]:
    """The names with which this run of the page began: a second look at large folders takes as long as the first."""
    return st.session_state[_NAMES]


def run_fields(bench: Workbench, changed: bool = True) -> list[Field]:
    """What choose_run keeps, for the URL of a page: model, prompt, and the change in place if the page offers one."""
    fields = [
        choice_field("model", begin_with_model_names(bench)),
        text_field("prompt", default=next(iter(EXAMPLES.values()))),
    ]
    return [*fields, text_field(UNDER)] if changed else fields


def choose_run(bench: Workbench, changed: bool = True) -> tuple[str, str, Capture]:
    """Model and prompt from the sidebar, and their capture; all pages share what was chosen.

    To be called within `address`, with run_fields among its fields.

    Args:
        changed: offer the changes that were saved on the page Intervene. The name then carries the change.
    """
    roomy()
    with st.sidebar:
        name = st.selectbox("Model", model_names(), key="model")
        st.selectbox("Example prompt", list(EXAMPLES), key="example", on_change=_take_example, persist_state="session")
        task_row_choice(bench, name)
        prompt = st.text_area("Prompt", height=160, key="prompt", help="Ctrl + Enter runs it.")
        change = _change_in_place() if changed else ""
    if not prompt:
        st.info("Type a prompt on the left to see how the heads are composed on it.", icon=":material/edit:")
        end()
    with st.spinner("Running the model ...", show_time=True):
        name = attempt(lambda: bench.under(name, change))
        return name, prompt, attempt(lambda: bench.capture(name, prompt))


def _change_in_place() -> str:
    """JSON of the change that the model runs under, "" for none; nothing is drawn where there is none to choose."""
    given = st.session_state.get(UNDER) or ""
    saved = st.session_state.setdefault(SAVED, {})
    if given and given not in saved:  # it came with a link
        try:
            saved[given] = label(loaded(given))
        except ValueError as error:
            st.warning(f"The link names a change that cannot be made: {told(error)}", icon=":material/link_off:")
            st.session_state[UNDER] = ""  # or every page would ask for it again
    if not saved:
        return ""
    chosen = st.selectbox(
        "Under an intervention", ["", *saved], format_func=lambda one: saved.get(one, "none: the model as it is"),
        key=UNDER,
    )  # fmt: skip
    if chosen:
        st.caption("All that this page shows is of the changed run.")
    return chosen


def _take_example() -> None:
    st.session_state.prompt = EXAMPLES[st.session_state.example]
