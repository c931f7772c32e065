"""Components on the Probes page: a store's feature taken apart without labels, and the tokens of each component."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from probes.components import METHODS
from probes.store import Store
from probes.study.cells import place
from workbench.links import Field, choice_field, integer_field, text_field
from workbench.pages.component_view import show_component
from workbench.pages.copy_python import copy_as_python
from workbench.pages.shared import attempt, workbench
from workbench.pages.store_section import chosen_store
from workbench.pages.tables import table
from workbench.scripts import components_script
from workbench.store_components import MOST_TOKENS, ComponentReading, ComponentRequest, component_features
from workbench.viewer.view import visible_token

MOST_COMPONENTS = 64
TITLES = {"pca": "principal components", "nmf": "non-negative parts", "kmeans": "clusters (k-means)"}
SHARES = {
    "pca": "Of the variance.", "nmf": "Of the sum of all entries, positive and negative parts apart.",
    "kmeans": "Of the tokens.",
}  # fmt: skip


def component_fields() -> list[Field]:
    """What the URL says of this section, beside the store's folder."""
    return [
        text_field("component kind", "feature"), text_field("component place", "place"),
        choice_field("component method", list(METHODS), "method"),
        integer_field("component count", "components", 8, 1, MOST_COMPONENTS),
        integer_field("component number", "component", 0, 0, MOST_COMPONENTS - 1),
        integer_field("component token", "token", None, 0, MOST_TOKENS - 1),
        text_field("component model", "with", None),
    ]  # fmt: skip


def component_section() -> None:
    store = chosen_store(
        "Its features, entries of mixing matrices say, are taken apart into components, each with the tokens that have "
        "it most."
    )
    if store is None:
        return
    request = choose_components(store, str(store.folder))
    if request is None:
        st.info(
            "This store has no feature of several numbers a token. Harvest a part of mixing, say query_part@3.post."
        )
        return
    with st.spinner("Taking the features apart ...", show_time=True):
        reading = attempt(lambda: workbench().components(request))
    show_reading(store, request, reading)


def choose_components(store: Store, folder: str) -> ComponentRequest | None:
    """What the controls say; None where the store has nothing to take apart."""
    kinds: dict[str, dict[str, str]] = {}
    for name in component_features(store):
        kinds.setdefault(str(place(name)["feature"]), {})[name.partition("@")[2] or "–"] = name
    if not kinds:
        return None
    columns = st.columns(4)
    _at_first("component kind", list(kinds))
    kind = columns[0].selectbox("Feature", list(kinds), key="component kind", persist_state="session")
    _at_first("component place", list(kinds[kind]))
    where = columns[1].selectbox("Layer, site", list(kinds[kind]), key="component place", persist_state="session")
    method = columns[2].selectbox("Method", list(METHODS), key="component method", format_func=TITLES.__getitem__,
                                  persist_state="session")  # fmt: skip
    count = columns[3].number_input(
        "Components", 1, MOST_COMPONENTS, step=1, key="component count", persist_state="session"
    )
    return ComponentRequest(folder, kinds[kind][where], method, int(count))


def _at_first(key: str, offered: list[str]) -> None:
    """What another store had, or a link says wrongly, gives way to the first."""
    if st.session_state.get(key) not in offered:
        st.session_state[key] = offered[0]


def show_reading(store: Store, request: ComponentRequest, reading: ComponentReading) -> None:
    top, share = reading.top(), reading.components.share
    size = int(np.prod(reading.directions.shape[1:]))
    read = len(reading.tokens)
    less = f", of {len(store):,} kept" if read < len(store) else ""
    st.caption(
        f"{TITLES[request.method].capitalize()} of {size} numbers for each of {read:,} tokens{less}; together "
        f"{share.sum():.1%}. Participation ratio {reading.dimension:.1f}: as many directions varying alike would "
        f"spread as far. At most {MOST_TOKENS:,} tokens are read."
    )
    show_summary(request, reading, top)
    copy_as_python(components_script(request))
    show_component(store, request, reading, top)


def show_summary(request: ComponentRequest, reading: ComponentReading, top: pd.DataFrame) -> None:
    found = reading.summary(top)
    for end in ("high", "low"):
        if end in found:
            found[end] = ["   ".join(visible_token(token) for token in tokens) for tokens in found[end]]
    columns = {
        "component": st.column_config.NumberColumn("component", width=90),
        "share": st.column_config.NumberColumn("share", format="%.3f", help=SHARES[request.method], width=80),
        "high": st.column_config.TextColumn("tokens that have it most", width="large"),
        "low": st.column_config.TextColumn("tokens at its other end", width="large"),
    }

    def choose(row: int) -> None:
        st.session_state["component number"] = row

    table(found, "components", key="component list", columns=columns, on_row=choose, height=_height(len(found)))
    two = " A principal component has two ends; which of them is called high means nothing."
    st.caption("Select a component to see it." + (two if reading.components.signed else ""))


def _height(rows: int) -> int:
    """In pixels, of a table that scrolls beyond ten rows."""
    return 35 * (min(rows, 10) + 1) + 3
