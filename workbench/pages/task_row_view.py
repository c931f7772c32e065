"""One task row on the Tasks page: whole, with every model's answers, and the ways on to other pages."""

from __future__ import annotations

from typing import NoReturn

import streamlit as st

from model import HookedDCFormer
from probes.tasks import TaskRow
from workbench import views
from workbench.links import pack_text
from workbench.pages.explore_link import open_in_explore
from workbench.pages.shared import attempt
from workbench.pages.tables import plain, table
from workbench.pages.task_columns import answer_columns, printable, rule_label
from workbench.session import Workbench
from workbench.task_rows import RowName, pair_of, prompt_before
from workbench.task_runs import TaskResult, short_names

COMPARE, INTERVENE = "workbench/pages/compare.py", "workbench/pages/intervene.py"


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
    st.code(row.text.strip("\n"), language=None, wrap_lines=True)
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
        chosen = st.selectbox("With", models, key="task open with", width=260, persist_state="session")
        explore = st.button("Open in Explore", icon=":material/open_in_new:", key="task explore")
        compare = st.button(
            "Compare", icon=":material/compare:", key="task compare",
            help="This model with the next one on the row up to the answer; where there is one model alone, with its "
            "uncomposed twin.",
        )  # fmt: skip
        pair = st.button(
            "Open its clean / corrupted pair in Intervene", icon=":material/swap_horiz:", key="task intervene",
            help="Two names or words of this line are swapped, so that another answer is right while every token "
            "keeps its place. A sweep then puts the mixing of one into the other.",
        )  # fmt: skip
    if not (explore or compare or pair):
        return
    model = attempt(lambda: bench.model(chosen))
    if pair:
        open_pair(model, chosen, name)
    prompt = attempt(lambda: prompt_before(row, name.line, model.tokenizer))
    if compare:
        open_in_compare(models, chosen, prompt)
    run = attempt(lambda: bench.capture(chosen, prompt))
    at = views.first_selection(run, attempt(lambda: bench.distances(chosen, prompt)))
    open_in_explore(chosen, prompt, at)


def open_in_compare(models: list[str], chosen: str, prompt: str) -> NoReturn:
    """The chosen model as side A, and the next one, or its own twin, as side B; as a link would."""
    other = models[(models.index(chosen) + 1) % len(models)]
    beside = {} if other == chosen else {"b-model": other, "b": "as trained"}
    st.switch_page(COMPARE, query_params={"model": chosen, "prompt": pack_text(prompt), **beside})


def open_pair(model: HookedDCFormer, chosen: str, name: RowName) -> NoReturn:
    """The sweep of Intervene with the pair filled in; as a link would."""
    prompt = attempt(lambda: pair_of(name, model.tokenizer)).clean.plain_text
    state = {"model": chosen, "prompt": pack_text(prompt), "section": "sweep", "pair": str(name)}
    st.switch_page(INTERVENE, query_params=state)
