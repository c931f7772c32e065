"""A task row as the prompt: chosen in the sidebar by family, rule, seed, row and line."""

from __future__ import annotations

import streamlit as st

from probes.tasks import FAMILIES, RULES
from probes.tasks.generator import DEMONSTRATIONS, LINES
from workbench.pages.tables import plain
from workbench.pages.task_columns import rule_label
from workbench.serving.wording import for_browser
from workbench.session import Workbench
from workbench.task_rows import RowName, prompt_before

ERROR = "sidebar row error"


def task_row_choice(bench: Workbench, model: str) -> None:
    """Offer rows of held-out word pairs; a chosen one, up to the answer of a line, becomes the prompt."""
    with st.popover("Task row", icon=":material/list_alt:", width="stretch", key="sidebar row"):
        family = st.selectbox("Family", FAMILIES, key="sidebar family", persist_state="session")
        rules = [number for number, rule in RULES.items() if rule.family == family]
        rule = st.selectbox(
            "Rule", rules, key=f"sidebar rule {family}", format_func=rule_label, persist_state="session"
        )
        places = st.columns(3)
        seed = places[0].number_input("Seed", 0, 2**31 - 1, step=1, key="sidebar seed", persist_state="session")
        row = places[1].number_input("Row", 0, 10**6, step=1, key="sidebar index", persist_state="session")
        asked = list(range(DEMONSTRATIONS, LINES))
        line = places[2].selectbox("Line", asked, key="sidebar line", persist_state="session")
        name = RowName(rule, int(row), int(seed), line=line)
        st.code(name.row().lines[line], language=None, wrap_lines=True)
        st.button("Use up to its answer", key="use row", type="primary", on_click=_take, args=(bench, model, name))
    if error := st.session_state.pop(ERROR, None):
        st.error(plain(error), icon=":material/error:")


def _take(bench: Workbench, model: str, name: RowName) -> None:
    try:
        tokenizer = bench.model(model).tokenizer
        if tokenizer is None:
            raise ValueError("This model has no tokenizer, and task rows are texts. Choose another model.")
        st.session_state.prompt = prompt_before(name.row(), name.line, tokenizer)
    except (ValueError, OSError) as error:
        st.session_state[ERROR] = for_browser(error)
