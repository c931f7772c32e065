"""A job of this session while it runs: a bar that moves, and a button that ends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from workbench.jobs import Job

POLL_S = 0.5


def show_job(
    job: Job[Any], key: str, running: Callable[[int, int], str], *, cancelling: str, waiting: str,
    stop: str = "Cancel",
) -> None:  # fmt: skip
    """Draw the bar and the button, again every POLL_S until the job ends; then the whole page runs again.

    Args:
        key: of the button. running: what to say of (done, all) pieces, all being 0 while it is not known.
        cancelling, waiting: what to say then. stop: name of the button.
    """

    def draw() -> None:
        if not job.running:
            st.rerun()
        done, total = job.progress
        said = cancelling if job.cancelling else waiting if job.waiting else running(done, total)
        bar, button = st.columns([6, 1], vertical_alignment="center")
        bar.progress(done / total if total else 0.0, said)
        button.button(stop, icon=":material/stop:", on_click=job.cancel, disabled=job.cancelling, key=key)

    st.fragment(draw, run_every=POLL_S)()
