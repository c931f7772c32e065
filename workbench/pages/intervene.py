"""Intervene: change head mixing, and see what becomes of the predictions and maps; one change, or a whole sweep."""

from __future__ import annotations

import math

import streamlit as st
from torch import Tensor

from model import Capture
from probes.interventions import to_json
from workbench import changes, views
from workbench.changes import ChangeReading
from workbench.figures import changed_tokens_figure
from workbench.links import choice_field, text_field
from workbench.pages.address import address, end
from workbench.pages.change_form import change_form
from workbench.pages.shared import PLOT, attempt, choose_run, run_fields, workbench
from workbench.pages.sweep_pair import KEY as PAIR
from workbench.pages.sweep_section import sweep_section
from workbench.session import Workbench
from workbench.viewer import Window
from workbench.viewer.component import map_viewer, read_event
from workbench.viewer.token_strip import token_strip
from workbench.viewer.view import visible_token

SECTIONS = ("one change", "sweep")


def page() -> None:
    bench = workbench()
    fields = [*run_fields(bench), choice_field("section", SECTIONS), text_field(PAIR, "pair")]
    with address("intervene", fields):
        intervene(bench)


def intervene(bench: Workbench) -> None:
    name, prompt, run = choose_run(bench)
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
    if change is None:
        return
    written = to_json(change)
    with st.spinner("Running the changed model ...", show_time=True):
        changed = attempt(lambda: bench.changed_capture(name, prompt, written))
        reading = bench.change_reading(name, prompt, written)
    position = current_position((name, prompt), len(run))
    show_numbers(reading, position)
    show_tokens(run, reading, position)
    show_predictions((run, changed), position, bench.model(name).to_string)
    show_maps(bench, (name, prompt, written), (run, changed), position)


def current_position(question: tuple[str, str], length: int) -> int:
    """The position that is looked at: the last one of a new prompt, until another is clicked."""
    if st.session_state.get("change_question") != question:
        st.session_state.change_question = question
        st.session_state.change_position = length - 1
        st.session_state.change_head = st.session_state.change_cell = st.session_state.change_window = None
    return st.session_state.change_position


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
    st.plotly_chart(figure, key="changed losses", config=PLOT)


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


def show_maps(bench: Workbench, question: tuple[str, str, str], runs: tuple[Capture, Capture], position: int) -> None:
    name, prompt, change = question
    run = runs[0]
    st.markdown("##### Which patterns changed?")
    distances = changes.pattern_distances(*runs, position)
    layer, head = current_head(distances, run)
    overview = changes.distance_overview(distances, position, (layer, head))
    st.caption("How far each head's composed pattern moved at the chosen position. Click a head to see its maps.")
    map_viewer(overview, key="changed heads", height=150)
    st.markdown(f"##### Layer {layer}, head {head}: composed pattern, intact and changed")
    cell, window = current_cell(run, position)
    intact, changed = bench.maps(name, prompt, layer, head), bench.maps(name, prompt, layer, head, change)
    map_viewer(changes.changed_maps(intact, changed, run, cell, window), key="changed maps")
    before, after = (float(maps["pattern_composed"][cell]) for maps in (intact, changed))
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
