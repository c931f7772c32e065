"""Full model: see what a checkpoint takes, load it, and watch its composition while it writes."""

from __future__ import annotations

import streamlit as st

from workbench.links import Field, choice_field, integer_field, number_field, text_field
from workbench.loading import PLANNED, devices
from workbench.model_choice import AS_STORED, DTYPE_NAMES
from workbench.pages.address import address, end
from workbench.pages.generate_section import LONGEST, generate_section
from workbench.pages.load_section import load_section
from workbench.pages.shared import EXAMPLES, roomy, workbench

SEEDS = 2**31 - 1


def page() -> None:
    bench = workbench()
    with address("full-model", fields()):
        roomy()
        st.subheader("Load a full model and watch it compose while it writes", anchor=False)
        choice = load_section(bench)
        st.markdown("##### Generate")
        if bench.loaded.get(choice.name) is None:
            st.info("Load the model first.", icon=":material/arrow_upward:")
            end()
        generate_section(bench, choice.name)


def fields() -> list[Field]:
    """What the URL says. Keys are the page's own: its model need not be the one that other pages look at."""
    return [
        text_field("full reference", "model", "demo/dcformer"),
        choice_field("full device", devices(), "device"),
        choice_field("full dtype", [AS_STORED, *DTYPE_NAMES], "dtype"),
        choice_field("full planned", PLANNED, "plan"),
        integer_field("full length", "length", None, 1),
        text_field("full prompt", "prompt", next(iter(EXAMPLES.values()))),
        integer_field("full tokens", "tokens", 48, 1, LONGEST),
        number_field("full temperature", "temperature", 0.0, 0.0, 10.0),
        integer_field("full top k", "top-k", 0, 0, 1_000_000),
        integer_field("full seed", "seed", 0, 0, SEEDS),
        integer_field("full shown", "token", None, 0),
    ]


page()
