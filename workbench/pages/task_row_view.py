"""One task row on the Tasks page: whole, with every model's answers, and the ways on to other pages."""

from __future__ import annotations

import streamlit as st

from model import HookedDCFormer
from probes.tasks import TaskRow
from workbench.pages.shared import attempt
from workbench.pages.tables import plain, table
from workbench.pages.task_columns import answer_columns, printable, rule_label
from workbench.session import Workbench
from workbench.task_rows import RowName, pair_of, prompt_before
from workbench.task_runs import TaskResult, short_names

EXPLORE, INTERVENE = "workbench/pages/explore.py", "workbench/pages/intervene.py"


def show_row(bench: Workbench, result: TaskResult) -> None:
    """The row that was selected, if it is one of the result's."""
    if not (said := st.session_state.get("task line")):
        return
    name = attempt(lambda: RowName.read(said))
    number = result.request.number_of(name)
    if number is None:
        st.info(plain(f"The row {said} is not among those scored. Select one in the table."))
        return
    row = result.rows[number]
    st.markdown(f"###### Row {number}, line {name.line} · rule {plain(rule_label(name.task_id))}")
    st.code(row.text.strip("\n"), language=None)
    show_lines(result, number)
    show_ways_on(bench, result, name, row)


def show_lines(result: TaskResult, number: int) -> None:
    answers = result.answers()
    lines = answers[answers.row == number].drop(columns=["row", "task_id", "family"])
    names = short_names(result.scores)
    table(printable(lines), f"task_row_{number}", key="task row", columns=answer_columns(names))


def show_ways_on(bench: Workbench, result: TaskResult, name: RowName, row: TaskRow) -> None:
    models = list(result.scores)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if st.session_state.get("task open with") not in models:
            st.session_state["task open with"] = models[0]
        chosen = st.selectbox("With", models, key="task open with", width=260)
        explore = st.button("Open in Explore", icon=":material/open_in_new:", key="task explore")
        pair = st.button(
            "Open its clean / corrupted pair in Intervene", icon=":material/swap_horiz:", key="task intervene",
            help="Two names or words of this line are swapped, so that another answer is right while every token "
            "keeps its place. A sweep then puts the mixing of one into the other.",
        )  # fmt: skip
    if not (explore or pair):
        return
    model = attempt(lambda: bench.model(chosen))
    open_in_intervene(model, chosen, name) if pair else open_in_explore(model, chosen, name, row)


def open_in_explore(model: HookedDCFormer, chosen: str, name: RowName, row: TaskRow) -> None:
    """Its text up to the answer, looked at from the last token."""
    prompt = attempt(lambda: prompt_before(row, name.line, model.tokenizer))
    st.session_state.model, st.session_state.prompt = chosen, prompt
    st.session_state.question = None
    st.switch_page(EXPLORE)


def open_in_intervene(model: HookedDCFormer, chosen: str, name: RowName) -> None:
    """The sweep section, with the pair filled in."""
    pair = attempt(lambda: pair_of(name, model.tokenizer))
    st.session_state.model, st.session_state.prompt = chosen, pair.clean.plain_text
    st.session_state["sweep pair"], st.session_state.section = str(name), "sweep"
    st.switch_page(INTERVENE)
