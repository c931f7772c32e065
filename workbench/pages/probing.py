"""Probes: what finished studies found, what a store holds, and a small study of one's own."""

# not called probes.py: where a page is run by itself, its folder comes first in sys.path and would hide the package

from __future__ import annotations

import streamlit as st

from workbench.links import choice_field, text_field
from workbench.pages.address import address
from workbench.pages.component_section import component_fields, component_section
from workbench.pages.shared import roomy
from workbench.pages.small_study import WRITTEN, small_study_section
from workbench.pages.store_section import store_section
from workbench.pages.study_section import shown_fields, study_section

SECTIONS = {"a study": study_section, "a store": store_section, "components": component_section,
            "run a small study": small_study_section}  # fmt: skip


def page() -> None:
    roomy()
    fields = [
        choice_field("probes section", list(SECTIONS), "section"), text_field("store folder", "store"),
        text_field("study chosen", "study"), text_field("study folder", "folder"),
        *shown_fields("study"), text_field(WRITTEN, "small"), *shown_fields("small", "small-"), *component_fields(),
    ]  # fmt: skip
    with address("probes", fields):
        probing()


def probing() -> None:
    st.subheader("What can be read from head mixing", anchor=False)
    section = st.segmented_control(
        "Section", list(SECTIONS), required=True, key="probes section", label_visibility="collapsed"
    )
    SECTIONS[section or next(iter(SECTIONS))]()


page()
