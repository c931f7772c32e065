"""Probes: what finished studies found, what a store holds, and a small study of one's own."""

# not called probes.py: where a page is run by itself, its folder comes first in sys.path and would hide the package

from __future__ import annotations

import streamlit as st

from workbench.pages.shared import roomy
from workbench.pages.small_study import small_study_section
from workbench.pages.store_section import store_section
from workbench.pages.study_section import study_section

SECTIONS = {"a study": study_section, "a store": store_section, "run a small study": small_study_section}


def page() -> None:
    roomy()
    st.subheader("What can be read from head mixing", anchor=False)
    section = st.segmented_control(
        "Section", list(SECTIONS), default=next(iter(SECTIONS)), required=True, key="probes section",
        label_visibility="collapsed", persist_state="session",
    )  # fmt: skip
    SECTIONS[section]()


page()
