"""Tasks: how well models answer the in-context tasks, and every row with their answers."""

# not called tasks.py: where a page is run by itself, its folder comes first in sys.path and would hide a package

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from model import list_models
from probes.tasks import FAMILIES, RULES
from probes.tasks.generator import DEMONSTRATIONS, LINES
from probes.tasks.scores import GROUPINGS
from workbench.jobs import Cancelled, Job
from workbench.links import Field, choice_field, flag_field, integer_field, list_field, text_field
from workbench.pages.address import address, restored
from workbench.pages.job_progress import show_job
from workbench.pages.shared import attempt, begin_with_model_names, model_names, roomy, workbench
from workbench.pages.task_columns import rule_choice
from workbench.pages.task_results import show_result
from workbench.session import Workbench
from workbench.task_runs import TaskRequest, TaskResult

MOST_ROWS, MOST_LINES = 500, 40
SPLITS = {"held_out": "held-out word pairs", "train": "training word pairs"}


@dataclass
class Asked:
    """A run of this session, and what was asked for."""

    request: TaskRequest
    job: Job[TaskResult]


def fields(bench: Workbench) -> list[Field]:
    """What the URL holds: what is scored, whether it was run, and what of it is looked at."""
    return [
        replace(list_field("task models", options=begin_with_model_names(bench), name="models"), default=list_models()),
        list_field("task families", options=FAMILIES, name="families"),
        list_field("task rules", int, options=list(RULES), name="rules"),
        integer_field("task rows", "rows", 1, 1, MOST_ROWS),
        integer_field("task seed", "seed", 0, 0, 2**31 - 1),
        choice_field("task split", list(SPLITS), "split"),
        integer_field("task lines", "lines", LINES, 1, MOST_LINES),
        integer_field("task demonstrations", "demonstrations", DEMONSTRATIONS, 0, MOST_LINES - 1),
        flag_field("task ran", "run"),
        choice_field("task by", list(GROUPINGS), "by"),
        list_field("task only families", options=FAMILIES, name="only-families"),
        list_field("task only rules", int, options=list(RULES), name="only-rules"),
        text_field("task outcome", "outcome", "all"),
        text_field("task line", "line"),
    ]


def page() -> None:
    bench = workbench()
    roomy()
    with address("tasks", fields(bench)):
        tasks(bench)


def tasks(bench: Workbench) -> None:
    st.subheader("How well models answer the in-context tasks", anchor=False)
    request = choose_request(bench)
    asked: Asked | None = st.session_state.get("task run")
    busy = asked is not None and asked.job.running
    with st.container(horizontal=True, vertical_alignment="center"):
        pressed = st.button("Run", icon=":material/play_arrow:", type="primary", disabled=busy, key="run tasks")
        if request.answers > 0:
            st.caption(f"{len(request.rule_ids) * request.rows:,} rows, {request.answers:,} answers of each model.")
    if pressed:
        start(bench, request)
        st.rerun()  # so that the button is drawn as one that cannot be pressed twice
    same = asked is not None and asked.request == request
    if restored() and st.session_state["task ran"] and not same:  # a link to a result: make it again
        asked = start(bench, request)
    st.session_state["task ran"] = asked is not None and asked.request == request
    if asked is None:
        st.info(
            "Run lets each model read every row once. An answer is right when each of its tokens is the model's first "
            "choice, given the right text before it."
        )
    elif asked.job.running:
        show_job(
            asked.job, "cancel tasks", lambda done, total: f"{done} of {total} rows read" if total else "Preparing ...",
            cancelling="Cancelling after the rows in hand ...", waiting="Waiting for another job to end ...",
        )  # fmt: skip
    else:
        show(bench, asked, request)


# -- what is asked -----------------------------------------------------------------------------------


def choose_request(bench: Workbench) -> TaskRequest:
    """What the controls say."""
    with st.container(border=True):
        top = st.columns([5, 4, 4])
        models = top[0].multiselect("Models", model_names(), key="task models")
        families = top[1].multiselect("Families", FAMILIES, key="task families", placeholder="all")
        rules = rule_choice(top[2], "Rules", families, "task rules")
        low = st.columns(5)
        rows = whole(low[0], "Rows of each rule", 1, MOST_ROWS, "task rows")
        seed = whole(low[1], "Seed", 0, 2**31 - 1, "task seed")
        split = low[2].selectbox(
            "Made from", list(SPLITS), format_func=lambda s: SPLITS[s], key="task split",
            help="A pair of words that stand together belongs to one of the two splits by a fixed function of the "
            "words; the bundled pair was trained on the training pairs of all rules.",
        )  # fmt: skip
        lines = whole(
            low[3], "Lines of a row", 1, MOST_LINES, "task lines",
            help="Examples of one rule, one below the other: later ones are answered with more examples before them. "
            "1 line and no demonstration: no example at all.",
        )  # fmt: skip
        shown = whole(
            low[4], "Demonstrations", 0, MOST_LINES - 1, "task demonstrations",
            help="The first lines, whose answers do not count.",
        )  # fmt: skip
    return TaskRequest(tuple(models), tuple(families), tuple(rules), rows, seed, split, lines, shown)


def whole(place: Any, label: str, low: int, high: int, key: str, help: str | None = None) -> int:
    return int(place.number_input(label, low, high, step=1, key=key, help=help))


# -- running -----------------------------------------------------------------------------------------


def start(bench: Workbench, request: TaskRequest) -> Asked:
    """Refuse what cannot run while the person still looks at it; then begin."""

    def checked() -> None:
        request.check()
        request.check_size()

    attempt(checked)
    asked = st.session_state["task run"] = Asked(request, bench.start_tasks(request))
    asked.job.wait(0.2)  # what is known already is there at once
    return asked


def show(bench: Workbench, asked: Asked, now: TaskRequest) -> None:
    try:
        result = attempt(asked.job.value)
    except Cancelled:
        done, total = asked.job.progress
        st.warning(f"Cancelled after {done} of {total} rows. Models that had read all rows need not do so again.")
        return
    if asked.request != now:
        st.caption("The settings above have changed since this ran.")
    show_result(bench, result)


page()
