"""The result on the Tasks page: accuracies, differences of models, and the rows with their answers."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from probes.tasks import FAMILIES
from probes.tasks.scores import GROUPINGS, OVERALL
from workbench.figures import task_accuracy_figure, task_differences_figure
from workbench.pages.copy_python import copy_as_python
from workbench.pages.downloads import show_figure
from workbench.pages.tables import plain, table
from workbench.pages.task_columns import answer_columns, printable, rule_choice
from workbench.pages.task_row_view import show_row
from workbench.scripts import tasks_script
from workbench.session import Workbench
from workbench.task_runs import TaskResult, filtered, outcomes, short_names

ABOUT = (
    "Bars: 95% Wilson intervals. Answers of one row resemble each other, so they count as fewer, independent ones "
    "(design effect). Grey: chance, one over the number of answers that the line's own words offer."
)
ABOUT_DIFFERENCES = (
    "{first} minus each other model, share of answers. Intervals: 95% bootstrap over rows. p: a test that flips the "
    "signs of the rows' differences, and after Holm's correction for the groups."
)


def show_result(bench: Workbench, result: TaskResult) -> None:
    by = st.segmented_control(
        "By", list(GROUPINGS), required=True, key="task by", format_func=lambda name: f"by {name}",
        label_visibility="collapsed", persist_state="session",
    )  # fmt: skip
    by = by or next(iter(GROUPINGS))
    show_accuracy(result, by)
    if len(result.scores) > 1:
        show_differences(result, by)
    copy_as_python(tasks_script(result.request, by))
    show_answers(bench, result)


def show_accuracy(result: TaskResult, by: str) -> None:
    found = result.accuracy(by)
    show_figure(task_accuracy_figure(found), key=f"task accuracy {by}", name=f"task_accuracy_by_{by}")
    st.caption(ABOUT + (" Line 0 is the first of a row." if by == "line" else ""))
    with st.expander("The same as numbers", icon=":material/table:"):
        share = st.column_config.NumberColumn(format="%.3f")
        columns = dict.fromkeys(("exact_match", "low", "high", "chance", "token_accuracy", "nats_per_token"), share)
        table(found, f"task_accuracy_by_{by}", key=f"task numbers {by}", columns=columns)


def show_differences(result: TaskResult, by: str) -> None:
    found, names = result.differences(by), short_names(result.scores)
    st.markdown("##### Do the models differ?")
    first = names[next(iter(result.scores))]
    figure = task_differences_figure(found.assign(against=[f"minus {names[model]}" for model in found.against]), first)
    show_figure(figure, key=f"task differences {by}", name=f"task_differences_by_{by}")
    overall = found[found.group == OVERALL]
    for _, row in overall.iterrows():
        st.markdown(
            plain(
                f"Overall {row.difference:+.3f} [{row.low:+.3f}, {row.high:+.3f}] against {names[row.against]}, "
                f"p {row.p:.2g}: {row.only_one} answers only the first got right, {row.only_other} only the other."
            )
        )
    st.caption(ABOUT_DIFFERENCES.format(first=plain(first)))
    with st.expander("The same as numbers", icon=":material/table:"):
        signed = st.column_config.NumberColumn(format="%+.3f")
        small = st.column_config.NumberColumn(format="%.3g")
        columns = dict.fromkeys(("difference", "low", "high"), signed) | dict.fromkeys(("p", "p_holm"), small)
        table(found, f"task_differences_by_{by}", key=f"task differences numbers {by}", columns=columns)


# -- rows --------------------------------------------------------------------------------------------


def show_answers(bench: Workbench, result: TaskResult) -> None:
    st.markdown("##### Rows with the models' answers")
    answers, models = result.answers(), list(result.scores)
    names = short_names(models)
    shown = choose_answers(answers, models)
    right = " · ".join(f"{names[model]} {int(shown[f'{model}: right'].sum())} right" for model in models)
    st.caption(
        plain(f"{len(shown):,} of {len(answers):,} answers; of these {right}.") + " Select a row to see it whole."
    )

    def choose(place: int) -> None:
        one = shown.iloc[place]
        st.session_state["task line"] = str(result.request.name_of(int(one["row"]), int(one["line"])))

    table(
        printable(shown), "task_answers", key=f"task answers {len(shown)}", columns=answer_columns(names), height=320,
        on_row=choose,
    )  # fmt: skip
    show_row(bench, result)


def choose_answers(answers: pd.DataFrame, models: list[str]) -> pd.DataFrame:
    """The answers that the filters let through."""
    places = st.columns(3)
    families = places[0].multiselect("Only families", FAMILIES, key="task only families", placeholder="all",
                                     persist_state="session")  # fmt: skip
    rules = rule_choice(places[1], "Only rules", families, "task only rules")
    offered = outcomes(models)
    if st.session_state.get("task outcome") not in offered:  # of other models, or of a link
        st.session_state["task outcome"] = offered[0]
    outcome = places[2].selectbox("Only answers with", offered, key="task outcome", format_func=outcome_label,
                                  persist_state="session")  # fmt: skip
    return filtered(answers, families, rules, outcome or offered[0])


def outcome_label(outcome: str) -> str:
    return "any outcome" if outcome == "all" else outcome
