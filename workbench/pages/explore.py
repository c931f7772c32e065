"""Explore: one prompt through one model, from the overview of its heads down to a single mixing matrix."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from model import Capture
from workbench import views
from workbench.all_heads import STAGES, small_view
from workbench.export import capture_npz
from workbench.links import choice_field, flag_field, places_field, window_field
from workbench.overviews import MEASURES, overview_view
from workbench.pages.address import address, restored
from workbench.pages.copy_python import copy_as_python
from workbench.pages.downloads import show_maps
from workbench.pages.inspector import LOOKS, inspector, take_click
from workbench.pages.shared import attempt, choose_run, run_fields, told, waited, workbench
from workbench.pages.tables import explain, plain
from workbench.scripts import explore_script
from workbench.session import Workbench
from workbench.viewer import MapView, Window
from workbench.viewer.component import read_event
from workbench.viewer.thumbnails import thumbnails
from workbench.viewer.token_strip import token_strip
from workbench.viewer.view import visible_token
from workbench.views import Selection

# tokens up to which all heads of a layer are drawn without being asked for: whole maps of all heads take a while
SMALL_AT_ONCE = 512
Question = tuple[str, str]  # model name and prompt


def page() -> None:
    bench = workbench()
    fields = [
        *run_fields(bench), choice_field("measure", list(MEASURES)),
        choice_field("kind", list(views.KINDS), "map", "pattern"), window_field("window", "window"),
        choice_field("small stage", STAGES, "heads", "composed"), flag_field("small", "all-heads"),
        choice_field("look", list(LOOKS)),
        places_field("selection", "at", ("layer", "head", "query", "key"), Selection),
    ]  # fmt: skip
    with address("explore", fields):
        explore(bench)


def explore(bench: Workbench) -> None:
    name, prompt, run = choose_run(bench)
    model = attempt(lambda: bench.model(name))
    selection = attempt(lambda: current_selection(bench, run, (name, prompt)))
    show_header(model.cfg.model_name, run)
    tools = st.container(horizontal=True)
    show_tokens(run, selection)
    show_overview(bench, (name, prompt), run, selection)
    kind = show_head(bench, (name, prompt), run, selection)
    show_all_heads(bench, (name, prompt), run, selection, kind)
    inspector(run, selection, kind)
    show_predictions(run, selection, model.to_string)
    with tools:
        copy_as_python(explore_script(*bench.parts(name), prompt, selection, kind))
        st.download_button(
            "Save capture", lambda: capture_file(bench, (name, prompt)), "capture.npz", "application/octet-stream",
            icon=":material/download:", on_click="ignore", key="capture npz",
            help="One NPZ file: queries, keys, values and mixing factors of every layer, logits, and their metadata.",
        )  # fmt: skip


def capture_file(bench: Workbench, question: Question) -> bytes:
    """The capture's file. Streamlit keeps what makes a download as long as the session lives, so that it must not hold
    the capture itself: a hundred megabytes and more, outside the bounded cache."""
    return capture_npz(bench.capture(*question), *question)


# -- selection: what is looked at, kept while the prompt stays the same ------------------------------


def current_selection(bench: Workbench, run: Capture, question: Question) -> Selection:
    """The selection of this session; a new model or prompt starts where mixing is strongest."""
    state = st.session_state
    if restored() or state.get("question") != question:
        # the question last: where this is refused, because too many wait for the model, the next run starts here again
        by_link = restored() or "question" not in state
        chosen, window = linked(bench, run, question) if by_link else (first_look(bench, run, question), None)
        state.selection, state.window, state.question = chosen, window, question
        return chosen
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
    select(**take_click(run))
    return st.session_state.selection


def linked(bench: Workbench, run: Capture, question: Question) -> tuple[Selection, Window | None]:
    """What the URL says, checked against the prompt; where it says nothing that exists, where to look first."""
    at, window = st.session_state.selection, st.session_state.window
    if window is not None and max(window[0][1], window[1][1]) > len(run):
        window = None
    try:
        chosen = views.chosen_selection(run, **vars(at)) if at is not None else None
    except ValueError as error:
        st.warning(plain(f"The link names a place that is not there: {error}"), icon=":material/link_off:")
        chosen = None
    return chosen or first_look(bench, run, question), window


def first_look(bench: Workbench, run: Capture, question: Question) -> Selection:
    return views.first_selection(run, bench.distances(*question))


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


def show_tokens(run: Capture, selection: Selection) -> None:
    # one row, and not the head's maps, so that the browser draws this while they are made
    row = run.pattern(selection.layer, heads=selection.head, queries=selection.query)[0, 0]
    st.caption(
        f"Tokens: click or ← → chooses the query, with Shift the key. Shade: composed pattern of layer "
        f"{selection.layer}, head {selection.head} from the query (red positive, blue negative)."
    )
    token_strip(
        run.str_tokens, row.numpy(), selection.query, selection.key, widget_key="tokens",
        on_query=lambda position: select(query=position), on_key=lambda position: select(key=position),
    )  # fmt: skip


def show_overview(bench: Workbench, question: Question, run: Capture, selection: Selection) -> None:
    st.markdown("##### Which heads are mixed?")
    if not run.cfg.mixed_sites:
        st.info("This model mixes no heads: M is the identity everywhere. Its raw and composed maps are the same.")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        measure = st.selectbox(
            "Measure", list(MEASURES), format_func=lambda name: MEASURES[name].title, key="measure", width=340
        )
        explain(MEASURES[measure], "explain measure")
    try:
        with st.spinner("Measuring ...", show_time=True):
            found = waited(lambda: bench.overview(*question, measure))
    except ValueError as error:  # this measure has nothing to say here; the rest of the page has
        st.info(told(error))
        return
    row = sorted(run.layers).index(selection.layer)
    show_maps(overview_view(found, (row, selection.head)), key="overview", name=measure, height=170)


def show_head(bench: Workbench, question: Question, run: Capture, selection: Selection) -> str:
    st.markdown(f"##### Layer {selection.layer}, head {selection.head}: before and after mixing")
    kinds = list(views.KINDS)
    kind = st.segmented_control("Map", kinds, required=True, key="kind", label_visibility="collapsed") or kinds[0]
    st.caption(views.MEANINGS[kind])
    window = st.session_state.window

    def whole() -> MapView:  # kept for the downloads as long as the session lives: it must not hold the capture
        maps = bench.maps(*question, selection.layer, selection.head)
        return views.head_maps(maps, bench.capture(*question), selection, kind, window)

    view = attempt(lambda: bench.head_view(*question, selection, kind, window))
    show_maps(view, key="maps", name=f"{kind}_layer_{selection.layer}_head_{selection.head}", again=whole)
    return kind


def show_all_heads(bench: Workbench, question: Question, run: Capture, selection: Selection, kind: str) -> None:
    st.markdown(f"##### All heads of layer {selection.layer}")
    with st.container(horizontal=True, vertical_alignment="center"):
        stage = st.segmented_control(
            "Stage of the small maps", STAGES, required=True, key="small stage", label_visibility="collapsed"
        )
        long = len(run) > SMALL_AT_ONCE
        shown = st.toggle("Draw them for this long prompt", key="small") if long else True
    if not shown or stage is None:
        return
    with st.spinner("Drawing all heads ...", show_time=True):
        maps = attempt(lambda: bench.small_maps(*question, selection.layer, kind, stage))
    view = small_view(run, kind, maps)
    thumbnails(view, selection.head, key="small maps", on_choice=lambda head: select(head=head))
    st.caption(
        f"{kind.capitalize()}, {stage}, on one scale from −{view.panels[0].full_scale:.3g} to "
        f"{view.panels[0].full_scale:.3g}. Click or ← → opens a head above."
    )


def show_predictions(run: Capture, selection: Selection, decode: object) -> None:
    st.markdown(f"##### Most likely next tokens after position {selection.query}")
    rows = views.next_tokens(run, selection.query, decode)
    st.dataframe(
        {"token": [visible_token(token) for token, _ in rows], "probability": [p for _, p in rows]},
        column_config={"probability": st.column_config.ProgressColumn(min_value=0.0, max_value=1.0, format="%.3f")},
        hide_index=True, width="stretch",
    )  # fmt: skip


page()
