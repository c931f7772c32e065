"""One component on the Probes page: its direction, how its scores are spread, and its tokens in their contexts."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from probes.store import Store
from probes.study.cells import place
from workbench import views
from workbench.figures import component_scores_figure, head_matrices_figure
from workbench.pages.downloads import show_figure
from workbench.pages.explore_link import open_in_explore
from workbench.pages.shared import attempt, workbench
from workbench.pages.tables import plain, table
from workbench.store_components import ComponentReading, ComponentRequest, check_token, model_of, token_place
from workbench.viewer.view import visible_token

UNITS = {
    "pca": "projection on its direction", "nmf": "weight of the part",
    "kmeans": "minus the distance from its centre",
}  # fmt: skip


def show_component(store: Store, request: ComponentRequest, reading: ComponentReading, top: pd.DataFrame) -> None:
    number = min(st.session_state["component number"] or 0, request.count - 1)
    st.markdown(f"##### Component {number}")
    spread, direction = st.columns([3, 2])
    with spread:
        st.caption("How strongly the tokens have it; the number of tokens on a logarithmic scale.")
        figure = component_scores_figure(reading.components.scores[:, number], UNITS[request.method])
        show_figure(figure, key="component scores", name=f"component_{number}_scores")
    shape = reading.directions.shape[1:]
    if len(shape) == 2 and shape[0] == shape[1]:
        with direction:
            st.caption("Its direction: what it adds to mixing, source × target.")
            figure = head_matrices_figure({"": reading.directions[number]}, _unit(request))
            show_figure(figure, key="component direction", name=f"component_{number}_direction")
    st.markdown("###### Tokens that have it most, each of another document")
    listed = top[top.component == number]
    if listed.empty:  # k-means may leave a cluster without members, where tokens are alike
        st.info("No token belongs to this cluster: so few are unlike each other. Ask for fewer components.")
    else:
        show_tokens(store, request, reading, listed)


def _unit(request: ComponentRequest) -> str:
    return "difference from the mean" if request.method == "kmeans" else "weight"


def show_tokens(store: Store, request: ComponentRequest, reading: ComponentReading, listed: pd.DataFrame) -> None:
    shown = listed.drop(columns=["component", "index"])
    for name in ("left", "token", "right"):
        shown[name] = [visible_token(text) if text else "" for text in listed[name]]
    number, text = st.column_config.NumberColumn, st.column_config.TextColumn
    columns: dict[str, Any] = {
        "end": text(width=60) if reading.components.signed else None, "rank": number(width=60),
        "score": number(format="%.4g", width=90), "left": text("before it", width="large"), "token": text(width=110),
        "right": text("after it", width="large"), "document": number(width=90),
    }  # fmt: skip

    def choose(row: int) -> None:
        st.session_state["component token"] = int(listed["index"].iloc[row])

    key = f"component tokens {request.feature} {request.method} {request.count} {listed.component.iloc[0]}"
    table(shown, "component_tokens", key=key, columns=columns, on_row=choose)
    st.caption("… stands for tokens that were not kept. Select a token to open it in Explore.")
    index = st.session_state.get("component token")
    if index is not None and index in set(listed["index"]):
        show_way_on(store, request, reading, index)


def show_way_on(store: Store, request: ComponentRequest, reading: ComponentReading, index: int) -> None:
    bench = workbench()
    at = attempt(lambda: token_place(store, reading.tokens, index))
    names = attempt(bench.model_names)
    if st.session_state.get("component model") not in names:
        st.session_state["component model"] = model_of(store, names)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox("With", names, key="component model", width=260, persist_state="session")
        pressed = st.button("Open in Explore", icon=":material/open_in_new:", key="component explore")
        where = "the text." if at.whole else "what was kept around it: the model had read more before it."
        st.caption(
            plain(f"{visible_token(str(reading.tokens.token.iloc[index]))} at position {at.position} of {where}")
        )
    if pressed:
        model = attempt(lambda: bench.model(name))
        attempt(lambda: store.check_model(model))
        query = attempt(lambda: check_token(model, at, int(reading.tokens.token_id.iloc[index])))
        run = attempt(lambda: bench.capture(name, at.text))
        layer = max(0, int(place(request.feature)["layer"]))
        open_in_explore(name, at.text, views.chosen_selection(run, layer=min(layer, run.cfg.n_layers - 1), query=query))
