"""Intervene: change head mixing, and see what becomes of the predictions and maps; one change, or a whole sweep."""

from __future__ import annotations

import math

import streamlit as st
from torch import Tensor

from model import Capture
from probes.interventions import Change, to_json
from workbench import changes, drafts, views
from workbench.changes import ChangeReading
from workbench.figures import changed_tokens_figure
from workbench.links import choice_field, integer_field, places_field, text_field, window_field
from workbench.pages.address import address, end, restored
from workbench.pages.change_form import WRITTEN, change_form
from workbench.pages.copy_python import copy_as_python
from workbench.pages.downloads import show_figure, show_maps
from workbench.pages.shared import SAVED, attempt, choose_run, run_fields, workbench
from workbench.pages.sweep_pair import KEY as PAIR
from workbench.pages.sweep_section import sweep_fields, sweep_section
from workbench.scripts import intervene_script
from workbench.session import Workbench
from workbench.viewer import MapView, Window
from workbench.viewer.component import read_event
from workbench.viewer.token_strip import token_strip
from workbench.viewer.view import visible_token

SECTIONS = ("one change", "sweep")


def page() -> None:
    bench = workbench()
    fields = [
        *run_fields(bench, changed=False), choice_field("section", SECTIONS), text_field(PAIR, "pair"),
        text_field(WRITTEN, "change"),
        integer_field("change_position", "position", low=0), places_field("change_head", "head", ("layer", "head")),
        places_field("change_cell", "cell", ("query", "key")), window_field("change_window", "window"),
        *sweep_fields(),
    ]  # fmt: skip
    with address("intervene", fields):
        intervene(bench)


def intervene(bench: Workbench) -> None:
    name, prompt, run = choose_run(bench, changed=False)
    st.subheader("What head mixing does: change it and see", anchor=False)
    if not run.cfg.mixed_sites:
        st.info("This model mixes no heads, so there is no mixing to change. Choose a composed model on the left.")
        end()
    section = st.segmented_control("Section", SECTIONS, required=True, key="section", label_visibility="collapsed")
    if section == "sweep":
        sweep_section(bench, name, prompt, run)
    else:
        one_change(bench, name, prompt, run)


def one_change(bench: Workbench, name: str, prompt: str, run: Capture) -> None:
    change = change_form(name, prompt, run)
    st.session_state[WRITTEN] = None if change is None else to_json(change)
    if change is None:
        return
    written = st.session_state[WRITTEN]
    with st.container(horizontal=True):
        copy_as_python(intervene_script(name, prompt, written))
        save_for_other_pages(change, written)
    with st.spinner("Running the changed model ...", show_time=True):
        changed = attempt(lambda: bench.changed_capture(name, prompt, written))
        reading = attempt(lambda: bench.change_reading(name, prompt, written))
        decode = attempt(lambda: bench.model(name)).to_string
    position = current_position((name, prompt), run)
    show_numbers(reading, position)
    show_tokens(run, reading, position)
    show_predictions((run, changed), position, decode)
    show_patterns(bench, (name, prompt, written), (run, changed), position)


def save_for_other_pages(change: Change, written: str) -> None:
    saved = st.session_state.setdefault(SAVED, {})
    if st.button(
        "Use on other pages", icon=":material/bookmark:", key="save change", disabled=written in saved,
        help="Offers this change below the prompt of Explore, Virtual heads and Heads: they then show the changed run.",
    ):  # fmt: skip
        saved[written] = drafts.label(change)
        st.rerun()


def current_position(question: tuple[str, str], run: Capture) -> int:
    """The position that is looked at: the last one of a new prompt, until another is clicked."""
    state, length = st.session_state, len(run)
    if restored():
        state.change_question = question
        if state.change_position is None or state.change_position >= length:
            state.change_position = length - 1
        if state.change_head is not None and not _inside(state.change_head, (run.cfg.n_layers, run.cfg.n_heads)):
            state.change_head = None
        if state.change_cell is not None and not _inside(state.change_cell, (length, length)):
            state.change_cell = None
        if state.change_window is not None and max(end for _, end in state.change_window) > length:
            state.change_window = None
    elif state.get("change_question") != question:
        state.change_question = question
        state.change_position = length - 1
        state.change_head = state.change_cell = state.change_window = None
    return state.change_position


def _inside(place: tuple[int, int], size: tuple[int, int]) -> bool:
    return all(at < length for at, length in zip(place, size, strict=True))


def go_to(position: int) -> None:
    st.session_state.change_position = position


# -- the parts of the page, top to bottom ------------------------------------------------------------


def show_numbers(reading: ChangeReading, position: int) -> None:
    intact, changed, kl = reading.means
    numbers = st.columns(4)
    numbers[0].metric("loss, intact", _number(intact), help="Mean over the predicted tokens, nats per token.")
    numbers[1].metric(
        "loss, changed", _number(changed), None if math.isnan(changed) else f"{changed - intact:+.4f}",
        delta_color="inverse", help="Mean over the predicted tokens, nats per token.",
    )  # fmt: skip
    numbers[2].metric("mean KL(intact ‖ changed)", _number(kl), help="Mean over the predicted tokens, nats per token.")
    numbers[3].metric(f"KL at position {position}", _number(float(reading.kl[position])), help="nats")
    st.caption(
        "Loss of the whole prompt: {:.2f} nats intact, {:.2f} changed, over {} predicted tokens.".format(
            *reading.totals, len(reading.kl) - 1
        )
    )


def _number(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.4f}"


def show_tokens(run: Capture, reading: ChangeReading, position: int) -> None:
    st.markdown("##### Which predictions changed?")
    st.caption("Tokens: click chooses a position. Shade: KL(intact ‖ changed) of what is predicted after it.")
    token_strip(
        run.str_tokens, reading.kl, position, position, widget_key="changed tokens", on_query=go_to, on_key=go_to
    )
    tokens = [visible_token(token) for token in run.str_tokens]
    figure = changed_tokens_figure(reading.loss_intact, reading.loss_changed, reading.kl, tokens, position)
    st.caption(
        "Loss of the token after each position, from intact (grey tick) to changed (end of the bar): red where it "
        "rose, blue where it fell."
    )
    show_figure(figure, key="changed losses", name="changed_losses")


def show_predictions(runs: tuple[Capture, Capture], position: int, decode: object) -> None:
    token = visible_token(runs[0].str_tokens[position])
    st.markdown(f"##### Most likely next tokens after position {position}")
    st.code(f"{position}: {token}", language=None)
    for place, title, run in zip(st.columns(2), ("intact", "changed"), runs, strict=True):
        rows = views.next_tokens(run, position, decode)
        place.caption(title)
        place.dataframe(
            {"token": [visible_token(token) for token, _ in rows], "probability": [p for _, p in rows]},
            column_config={
                "probability": st.column_config.ProgressColumn(min_value=0.0, max_value=1.0, format="%.3f")
            },
            hide_index=True, width="stretch", key=f"next {title}",
        )  # fmt: skip


def show_patterns(
    bench: Workbench, question: tuple[str, str, str], runs: tuple[Capture, Capture], position: int
) -> None:
    name, prompt, change = question
    run = runs[0]
    st.markdown("##### Which patterns changed?")
    distances = changes.pattern_distances(*runs, position)
    layer, head = current_head(distances, run)
    overview = changes.distance_overview(distances, position, (layer, head))
    st.caption("How far each head's composed pattern moved at the chosen position. Click a head to see its maps.")
    show_maps(overview, key="changed heads", name="changed_heads", height=150)
    st.markdown(f"##### Layer {layer}, head {head}: composed pattern, intact and changed")
    cell, window = current_cell(run, position)

    def both() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return bench.maps(name, prompt, layer, head), bench.maps(name, prompt, layer, head, change)

    def view() -> MapView:
        return changes.changed_maps(*both(), run, cell, window)

    show_maps(attempt(view), key="changed maps", name=f"changed_layer_{layer}_head_{head}", again=view)
    before, after = (float(maps["pattern_composed"][cell]) for maps in attempt(both))
    query, key = (f"{at}: {visible_token(run.str_tokens[at])}" for at in cell)
    st.code(
        f"query {query}    key {key}    intact {before:.4f}    changed {after:.4f}    difference {after - before:+.4f}",
        language=None, wrap_lines=True,
    )  # fmt: skip


def current_head(distances: Tensor, run: Capture) -> tuple[int, int]:
    """(layer, head) whose maps are shown: at first the one that changed most."""
    event = read_event("changed heads", (len(run.layers), run.cfg.n_heads))
    if event.pick is not None:
        st.session_state.change_head = event.pick
    if st.session_state.change_head is None:
        st.session_state.change_head = divmod(int(distances.argmax()), run.cfg.n_heads)
    return st.session_state.change_head


def current_cell(run: Capture, position: int) -> tuple[tuple[int, int], Window | None]:
    """The outlined (query, key), and the part of the maps that is shown."""
    event = read_event("changed maps", (len(run), len(run)))
    if event.pick is not None:
        st.session_state.change_cell = event.pick
    if event.window is not None:
        st.session_state.change_window = event.window
    return st.session_state.change_cell or (position, position), st.session_state.change_window


page()
