"""Which checkpoint, what it takes, loading it, and what is loaded."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
import streamlit as st

from model.memory import MODES, in_words
from workbench.access import allowed_model, hub_allowed, model_folders
from workbench.generating import memory_in_use, memory_in_words
from workbench.jobs import Cancelled, Job
from workbench.loading import PLANNED, LoadPlan, devices, is_remote, weight_bytes
from workbench.model_choice import AS_STORED, DTYPE_NAMES, ModelChoice
from workbench.pages.job_progress import show_job
from workbench.pages.shared import attempt
from workbench.pages.tables import plain
from workbench.session import Workbench

TABLE_PX = 300


def load_section(bench: Workbench) -> ModelChoice:
    """Ask for a model; show its plan, and what can be done with it. Stops where none is named that may be opened."""
    with st.container(border=True):
        choice = _asked()
        _offer(bench, choice)
    _loaded(bench)
    return choice


def _asked() -> ModelChoice:
    columns = st.columns([4, 1, 1], vertical_alignment="bottom")
    hub = "or a hub id (org/name)" if hub_allowed() else "(the hub is off)"
    typed = columns[0].text_input(
        f"Checkpoint: a bundled model, a directory in the folder of models {hub}", key="full reference",
        help="Published layouts dcformer and dcpythia, GPT-NeoX, and our own. WORKBENCH_MODELS names the folders, "
        "WORKBENCH_ALLOW_HUB=1 allows the Hugging Face hub.",
    )  # fmt: skip
    device = columns[1].selectbox("Device", devices(), key="full device")
    dtype = columns[2].selectbox("Dtype", [AS_STORED, *DTYPE_NAMES], key="full dtype")
    reference = attempt(lambda: allowed_model(typed.strip(), model_folders(), hub_allowed()))
    return ModelChoice(reference, device, None if dtype == AS_STORED else dtype)


def _offer(bench: Workbench, choice: ModelChoice) -> None:
    """The plan, and below it the button that loads: in this order."""
    job: Job[str] | None = st.session_state.get("full load")
    if job is not None and job.running:
        _show_progress(job, st.session_state["full load began"])
        return
    if job is not None:
        _ended(job)
    found = _planned(bench, choice)
    if found is None:
        return
    there = bench.loaded.get(choice.name) is not None
    with st.expander("What it takes", expanded=not there, icon=":material/memory:"):
        _show_plan(found)
    if not there and st.button(
        "Load", type="primary", icon=":material/download:", key="load model", disabled=found.refusal is not None
    ):
        st.session_state["full load"] = bench.start_load(choice)
        st.session_state["full load began"] = time.monotonic()
        st.rerun()


# -- the plan ----------------------------------------------------------------------------------------


def _planned(bench: Workbench, choice: ModelChoice) -> LoadPlan | None:
    columns = st.columns([2, 2, 3], vertical_alignment="bottom")
    mode = columns[0].selectbox("Memory for", PLANNED, format_func=lambda m: MODES[m], key="full planned")
    length = columns[1].number_input(
        "Tokens of the sequence", min_value=1, step=1, value=None, key="full length", placeholder="the whole context",
        help="New tokens included. Empty: as long as the model's context.",
    )  # fmt: skip
    if is_remote(choice):
        # a link that names a hub model must not by itself make this machine ask for it
        asked = columns[2].button("Ask the hub for its config.json", icon=":material/cloud:", key="ask hub")
        if asked:
            st.session_state["full asked hub"] = choice.reference
        if st.session_state.get("full asked hub") != choice.reference:
            st.info("The plan needs the model's config.json, which the Hugging Face hub has.", icon=":material/cloud:")
            return None
    return attempt(lambda: bench.load_plan(choice, length, mode))


def _show_plan(found: LoadPlan) -> None:
    cfg, planned = found.cfg, found.planned
    st.caption(
        plain(
            f"{cfg.model_name}: {cfg.n_layers} layers x {cfg.n_heads} heads, width {cfg.d_model}, context {cfg.n_ctx}. "
            f"A {planned.run} on {found.device}, at its peak:"
        )
    )
    rows = [(name, size / 2**20, meaning) for name, size, meaning in planned.rows() if name in planned.parts]
    rows.append(("total", planned.total / 2**20, f"on {found.device}"))
    outside = planned.in_main_memory | planned.if_asked
    rows += [(f"not in it: {name}", size / 2**20, meaning) for name, size, meaning in planned.rows() if name in outside]
    st.dataframe(
        pd.DataFrame(rows, columns=["part", "MiB", "what it is"]), hide_index=True, width="stretch", key="plan table",
        height=TABLE_PX, column_config={"MiB": st.column_config.NumberColumn(format="%.1f", width=110)},
    )  # fmt: skip
    if found.refusal:
        st.error(plain(found.refusal), icon=":material/block:")
    elif found.warning:
        st.warning(plain(found.warning), icon=":material/warning:")
    else:
        st.caption(plain(found.verdict))


# -- loading -----------------------------------------------------------------------------------------


def _show_progress(job: Job[str], began: float) -> None:
    def said(done: int, total: int) -> str:
        at = f"Loading: {in_words(done)} of {in_words(total)} ..." if total else "Opening the checkpoint ..."
        return f"{at} {time.monotonic() - began:.0f} s"

    show_job(
        job, "cancel load", said, cancelling="Giving up after the weight in hand ...",
        waiting="Waiting for another model to be loaded ...", stop="Give up",
    )  # fmt: skip


def _ended(job: Job[str]) -> None:
    del st.session_state["full load"]
    try:
        attempt(job.value)
    except Cancelled:
        st.warning("Loading was given up; nothing of the model is kept.", icon=":material/stop_circle:")


def _loaded(bench: Workbench) -> None:
    """What is loaded, each with a button that unloads it."""
    names = bench.loaded.names()
    if not names:
        return
    held = memory_in_words(memory_in_use(str(_device_of(bench, names[-1]))))
    st.markdown("##### Loaded: every page offers these models")
    for number, name in enumerate(names):
        model = bench.loaded.get(name)
        if model is None:  # another session has just unloaded it
            continue
        text, button = st.columns([6, 1], vertical_alignment="center")
        text.text(f"{name}: {in_words(weight_bytes(model))} of weights in {_dtype(model)} on {model.cfg.device}")
        button.button(
            "Unload", icon=":material/eject:", key=f"unload {number} {name}", on_click=bench.unload, args=(name,),
            help="For all sessions: what was computed with it goes too, and generations with it end.",
        )  # fmt: skip
    st.caption(f"Memory in use: {held}")


def _device_of(bench: Workbench, name: str) -> str:
    model = bench.loaded.get(name)
    return "cpu" if model is None else str(model.cfg.device)


def _dtype(model: Any) -> str:
    return str(model.cfg.dtype).removeprefix("torch.")
