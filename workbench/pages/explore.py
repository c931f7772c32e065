"""Explore: one prompt through one model, from the overview of its heads down to a single mixing matrix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import streamlit as st

from model import Capture
from workbench import views
from workbench.figures import mixing_matrix_figure, source_heads_figure
from workbench.links import choice_field, places_field, window_field
from workbench.pages.address import address, restored
from workbench.pages.copy_python import copy_as_python
from workbench.pages.downloads import show_figure, show_maps
from workbench.pages.shared import choose_run, run_fields, workbench
from workbench.pages.tables import plain
from workbench.scripts import explore_script
from workbench.session import Workbench
from workbench.viewer import MapView, Window
from workbench.viewer.component import read_event
from workbench.viewer.token_strip import token_strip
from workbench.viewer.view import visible_token
from workbench.views import Selection


def page() -> None:
    bench = workbench()
    fields = [
        *run_fields(bench), choice_field("kind", list(views.KINDS), "map", "pattern"),
        places_field("selection", "at", ("layer", "head", "query", "key"), Selection), window_field("window", "window"),
    ]  # fmt: skip
    with address("explore", fields):
        explore(bench)


def explore(bench: Workbench) -> None:
    name, prompt, run = choose_run(bench)
    selection = current_selection(bench, run, (name, prompt))
    maps = bench.maps(name, prompt, selection.layer, selection.head)
    show_header(bench.model(name).cfg.model_name, run)
    show_tokens(run, selection, maps["pattern_composed"][selection.query].numpy())
    show_overview(run, selection, bench.distances(name, prompt))
    kind = show_head(bench, (name, prompt), run, selection)
    show_cell(run, selection, kind)
    copy_as_python(explore_script(name, prompt, selection, kind))
    show_predictions(run, selection, bench.model(name).to_string)


# -- selection: what is looked at, kept while the prompt stays the same ------------------------------


def current_selection(bench: Workbench, run: Capture, question: tuple[str, str]) -> Selection:
    """The selection of this session; a new model or prompt starts where mixing is strongest."""
    if restored():
        st.session_state.question = question
        st.session_state.selection, st.session_state.window = linked(bench, run, question)
        return st.session_state.selection
    if st.session_state.get("question") != question:
        st.session_state.question, st.session_state.window = question, None
        st.session_state.selection = views.first_selection(run, bench.distances(*question))
        return st.session_state.selection
    # events are read before anything is drawn, so that one run of the page answers them
    on_overview = read_event("overview", (len(run.layers), run.cfg.n_heads))
    on_maps = read_event("maps", (len(run), len(run)))
    if on_maps.pick is not None:
        at = st.session_state.selection
        maps = bench.maps(*question, at.layer, at.head)
        query, key = views.snap(maps, st.session_state.kind, on_maps.pick, st.session_state.window)
        select(query=query, key=key)
    if on_overview.pick is not None:
        select(layer=sorted(run.layers)[on_overview.pick[0]], head=on_overview.pick[1])
    if on_maps.window is not None:
        st.session_state.window = on_maps.window
    return st.session_state.selection


def linked(bench: Workbench, run: Capture, question: tuple[str, str]) -> tuple[Selection, Window | None]:
    """What the URL says, checked against the prompt; where it says nothing that exists, where to look first."""
    at, window = st.session_state.selection, st.session_state.window
    if window is not None and max(window[0][1], window[1][1]) > len(run):
        window = None
    try:
        chosen = views.chosen_selection(run, **vars(at)) if at is not None else None
    except ValueError as error:
        st.warning(plain(f"The link names a place that is not there: {error}"), icon=":material/link_off:")
        chosen = None
    return chosen or views.first_selection(run, bench.distances(*question)), window


def select(**changes: int) -> None:
    st.session_state.selection = replace(st.session_state.selection, **changes)


# -- the parts of the page, top to bottom ------------------------------------------------------------


def show_header(model_name: str, run: Capture) -> None:
    cfg = run.cfg
    mixing = ", ".join(f"M_{site}" for site in cfg.mixed_sites) or "none (plain attention)"
    st.subheader("How the heads are composed", anchor=False)
    st.caption(
        f"{model_name} · {cfg.n_layers} layers × {cfg.n_heads} heads · mixing: {mixing} · "
        f"{len(run)} of {cfg.n_ctx} tokens"
    )


def show_tokens(run: Capture, selection: Selection, weights: np.ndarray) -> None:
    st.caption(
        f"Tokens: click chooses the query, shift-click the key. Shade: composed pattern of layer {selection.layer}, "
        f"head {selection.head} from the query (red positive, blue negative)."
    )
    token_strip(
        run.str_tokens, weights, selection.query, selection.key, widget_key="tokens",
        on_query=lambda position: select(query=position), on_key=lambda position: select(key=position),
    )  # fmt: skip


def show_overview(run: Capture, selection: Selection, by_site: dict) -> None:
    st.markdown("##### Which heads are mixed?")
    if not run.cfg.mixed_sites:
        st.info("This model mixes no heads: M is the identity everywhere. Its raw and composed maps are the same.")
    show_maps(views.overview(run, selection, by_site), key="overview", name="overview", height=170)


def show_head(bench: Workbench, question: tuple[str, str], run: Capture, selection: Selection) -> str:
    st.markdown(f"##### Layer {selection.layer}, head {selection.head}: before and after mixing")
    kinds = list(views.KINDS)
    kind = st.segmented_control("Map", kinds, required=True, key="kind", label_visibility="collapsed") or kinds[0]
    st.caption(views.MEANINGS[kind])
    window = st.session_state.window

    def view() -> MapView:
        maps = bench.maps(*question, selection.layer, selection.head)
        return views.head_maps(maps, run, selection, kind, window)

    show_maps(view(), key="maps", name=f"{kind}_layer_{selection.layer}_head_{selection.head}", again=view)
    return kind


def show_cell(run: Capture, selection: Selection, kind: str) -> None:
    query, key = (visible_token(run.str_tokens[at]) for at in (selection.query, selection.key))
    site = views.KINDS[kind]
    st.markdown(f"##### M_{site} at query {selection.query} and key {selection.key}")
    cell = views.read_cell(run, selection, kind)
    st.caption("Click a cell of the maps, or tokens in the strip, to choose another pair.")
    st.code(f"query {selection.query}: {query}    key {selection.key}: {key}", language=None)
    if not cell.visible:
        st.warning("This query does not see this key (it comes later, or lies outside the layer's window).")
    numbers = st.columns(4)
    numbers[0].metric(f"raw, head {selection.head}", f"{cell.raw[selection.head]:.4f}")
    numbers[1].metric(f"composed, head {selection.head}", f"{cell.composed[selection.head]:.4f}")
    numbers[2].metric("row sum of composed pattern", f"{cell.row_sum:.3f}")
    numbers[3].metric("branches − M, largest", f"{cell.branch_error:.1e}")
    show_figure(mixing_matrix_figure(cell.matrix, cell.branches, selection.head), key="matrix", name="mixing_matrix")
    show_figure(source_heads_figure(cell.parts, selection.head, views.UNITS[kind]), key="sources", name="source_heads")


def show_predictions(run: Capture, selection: Selection, decode: object) -> None:
    st.markdown(f"##### Most likely next tokens after position {selection.query}")
    rows = views.next_tokens(run, selection.query, decode)
    st.dataframe(
        {"token": [visible_token(token) for token, _ in rows], "probability": [p for _, p in rows]},
        column_config={"probability": st.column_config.ProgressColumn(min_value=0.0, max_value=1.0, format="%.3f")},
        hide_index=True, width="stretch",
    )  # fmt: skip


page()
