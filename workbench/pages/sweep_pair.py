"""The clean and the corrupted task row that a sweep of the Intervene page is made over, if one was brought along."""

from __future__ import annotations

from typing import NamedTuple

import streamlit as st

from model import HookedDCFormer
from workbench.pages.shared import attempt
from workbench.pages.tables import plain
from workbench.task_rows import Pair, RowName, pair_of

KEY = "sweep pair"
"""Of the line's name in st.session_state; "" = no pair."""


class ChosenPair(NamedTuple):
    """The pair, and the name of the line that it was made from."""

    name: RowName
    rows: Pair


def chosen_pair(model: HookedDCFormer) -> ChosenPair | None:
    """The pair of this session, shown, with a button that lets it go."""
    if not (said := st.session_state.get(KEY)):
        return None

    def read() -> ChosenPair:
        name = RowName.read(said)
        return ChosenPair(name, pair_of(name, model.tokenizer))

    with st.container(border=True):
        about = st.container()
        st.button("Leave the pair", icon=":material/close:", on_click=_leave, key="leave pair", type="tertiary")
    with about:
        pair = attempt(read)
        right, other = pair.rows.answers
        st.caption(
            plain(f"A pair of rows that differ in line {pair.name.line}: clean, answered by {right}, and corrupted, ")
            + plain(f"answered by {other}. Measured is the clean row's answer there; logit difference: {right} minus ")
            + plain(f"{other}.")
        )
        lines = (f"{kind:>9}: {row.lines[-1]}" for kind, row in zip(Pair._fields, pair.rows, strict=True))
        st.code("\n".join(lines), language=None, wrap_lines=True)
    return pair


def of_pair(pair: ChosenPair | None) -> str:
    """The end of a widget's key: with a pair other things can be chosen."""
    return "" if pair is None else " of pair"


def _leave() -> None:
    st.session_state[KEY] = ""
