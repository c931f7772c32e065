"""Heads: every head of a model by what it attends to and how mixing changes it, raw and composed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from model import Capture
from probes.metrics import HEAD_METRICS, Metric
from workbench.figures import LayerPanel, by_layer_figure, head_scatter_figure
from workbench.head_tables import TABLES, HeadTable, RandomTokens, top_heads
from workbench.links import choice_field, flag_field, integer_field, number_field, places_field, text_field
from workbench.pages.address import address, end, restored
from workbench.pages.copy_python import copy_as_python
from workbench.pages.downloads import show_figure, show_maps
from workbench.pages.explore_link import explore_button
from workbench.pages.shared import attempt, choose_run, run_fields, workbench
from workbench.pages.tables import definitions, metric_columns, plain, table
from workbench.scripts import heads_script
from workbench.session import Workbench
from workbench.viewer import Labels, MapView, Panel
from workbench.viewer.component import read_event

NUMBERS = {"Tokens in a block": (1, 4096, 50), "Repeats": (2, 64, 2), "Seed": (0, 2**31 - 1, 0)}  # low, high, first
SIDES = ("at least", "at most")
TEXTS = ("this prompt", "repeated random tokens")
NOT_COMPARABLE = (
    "Composed weights are signed and their rows sum to anything (row sum and negative share stand first), so their "
    "sizes are not comparable with those of raw weights."
)
ALL_HEADS = "all heads"
# names of filters; a filter by another metric has the metric's title
PRESETS = {
    "induction": "induction heads", "previous_token": "previous-token heads",
    "duplicate_token": "duplicate-token heads",
    "first_token": "first-token heads", "negative_share": "heads that subtract", "row_sum": "heads with large rows",
    "value_weighted_norm": "heads that move most",
}  # fmt: skip
TOP = 5  # heads that a filter lets through at first
Head = tuple[int, int]  # (layer, head)


def page() -> None:
    bench = workbench()
    fields = [
        *run_fields(bench), choice_field("heads text", TEXTS, "text"),
        choice_field("heads kind", list(TABLES), "table"),
        *(integer_field(f"heads {name}", name.lower().replace(" ", "-"), first, low, high)
          for name, (low, high, first) in NUMBERS.items()),
        choice_field("heads filter", [ALL_HEADS, *(metric.name for metric in HEAD_METRICS)], "show"),
        choice_field("heads stage", ("raw", "composed"), "stage", "composed"),
        choice_field("heads side", SIDES, "side"), number_field("heads threshold", "threshold"),
        text_field("heads Across", "across"), text_field("heads Up", "up"), flag_field("heads robust", "robust", True),
        places_field("heads_chosen", "head", ("layer", "head")),
    ]  # fmt: skip
    with address("heads", fields):
        heads(bench)


def heads(bench: Workbench) -> None:
    name, prompt, run = choose_run(bench)
    st.subheader("All heads, raw and composed", anchor=False)
    if not run.cfg.mixed_sites:
        st.info("This model mixes no heads: its raw and composed maps are the same, so that only raw ones are listed.")
    text = choose_text(prompt)
    kind = (
        st.segmented_control("Table", list(TABLES), required=True, key="heads kind", label_visibility="collapsed")
        or "heads"
    )
    if kind != "heads" and not run.cfg.mixed_sites and kind != "diversity":
        st.info("There is nothing to measure here: M is the identity everywhere.")
        end()
    with st.spinner("Measuring ...", show_time=True):
        found = attempt(lambda: bench.head_table(name, text, kind))
    if not run.cfg.mixed_sites:
        found = HeadTable(found.table[found.table.stage == "raw"].reset_index(drop=True), found.metrics, found.missing)
    question = (name, prompt)
    copy_as_python(heads_script(*bench.parts(name), text, kind))
    if kind == "heads":
        show_heads(found, question, run, text)
    elif kind == "raw to composed":
        show_distances(found, question, run)
    else:
        show_by_layer(found, kind)


def choose_text(prompt: str) -> str | RandomTokens:
    """What is measured on: the prompt, or random tokens that the controls describe."""
    places = st.columns([3, 2, 2, 2], vertical_alignment="bottom")
    over = places[0].radio(
        "Measured on", TEXTS, horizontal=True, key="heads text",
        help="Induction and duplicate-token weight are meant for a block of random tokens said again: nothing else "
        "links a token to its earlier occurrence there.",
    )  # fmt: skip
    if over == TEXTS[0]:
        return prompt
    values = []
    for place, (label, (low, high, _)) in zip(places[1:], NUMBERS.items(), strict=True):
        values.append(int(place.number_input(label, low, high, step=1, key=f"heads {label}", persist_state="session")))
    return RandomTokens(*values)


# -- all heads by all metrics ------------------------------------------------------------------------


def show_heads(found: HeadTable, question: tuple[str, str], run: Capture, text: str | RandomTokens) -> None:
    st.caption(f"Mean of each metric over the queries of {_said(text, run)}. {NOT_COMPARABLE}")
    chosen = choose_filter(found, (question[0], text))
    plot, beside = st.columns([3, 2])
    with plot:
        show_scatter(found, None if chosen is None else set(chosen))
    rows = found.table if chosen is None else _rows_of(found.table, chosen)
    show_table(found, rows)
    definitions(found.metrics, found.missing)
    with beside:
        show_chosen(found, question, run)


def _said(text: str | RandomTokens, run: Capture) -> str:
    if isinstance(text, RandomTokens):
        return f"{text.block} random tokens said {text.repeats} times"
    return f"the prompt's {len(run)} token{'s' if len(run) > 1 else ''}"


def choose_filter(found: HeadTable, of: tuple[str, str | RandomTokens]) -> list[Head] | None:
    """The heads that pass the filter, the most extreme first; None = all.

    Args:
        of: model name and text; for others the threshold starts anew.
    """
    titles = {metric.name: metric.title for metric in found.metrics}
    first = [name for name in PRESETS if name in titles]
    options = [ALL_HEADS, *first, *(name for name in titles if name not in first)]
    if st.session_state.get("heads filter") not in options:  # another text allows other metrics
        st.session_state["heads filter"] = ALL_HEADS
    places = st.columns([3, 2, 2, 2], vertical_alignment="bottom")
    name = places[0].selectbox(
        "Show", options, format_func=lambda n: PRESETS.get(n, titles.get(n, n)), key="heads filter",
        persist_state="session", on_change=_take_as_axis,
    )  # fmt: skip
    if name == ALL_HEADS:
        return None
    measured = found.table.dropna(subset=[name])
    stages = [stage for stage in ("raw", "composed") if stage in set(measured.stage)]
    if st.session_state["heads stage"] not in stages:
        st.session_state["heads stage"] = stages[-1]
    stage = (
        places[1].segmented_control("Stage", stages, required=True, key="heads stage", persist_state="session")
        or stages[-1]
    )
    side = (
        places[2].segmented_control("Value", SIDES, required=True, key="heads side", persist_state="session")
        or SIDES[0]
    )
    values = measured[measured.stage == stage][name].sort_values(ascending=side == "at most")
    asked = (*of, name, stage, side)
    if st.session_state.get("heads asked") != asked:
        # another question, another threshold, unless a link says one
        given = st.session_state["heads threshold"] if restored() else None
        st.session_state["heads asked"] = asked
        st.session_state["heads threshold"] = _first_threshold(values, side) if given is None else given
    threshold = places[3].number_input(
        "Threshold", step=0.05, format="%.3f", key="heads threshold", persist_state="session",
        help=f"At first: lets the {TOP} most extreme heads through.",
    )  # fmt: skip
    chosen = top_heads(found.table, name, stage, threshold, side == "at least")
    st.caption(
        f"{len(chosen)} of {len(values)} heads: {plain(titles[name])} of the {stage} pattern {side} {threshold:g}."
        + ("" if chosen else " Move the threshold to see some.")
    )
    return chosen


def _first_threshold(values: pd.Series, side: str) -> float:
    """Rounded outwards, so that the head whose value it is passes."""
    start = float(values.iloc[min(TOP, len(values)) - 1])
    return float((np.floor if side == "at least" else np.ceil)(start * 1000) / 1000)


def _take_as_axis() -> None:
    """Show what is filtered by in the scatter plot too."""
    if st.session_state["heads filter"] != ALL_HEADS:
        st.session_state["heads Across"] = st.session_state["heads filter"]


def _rows_of(rows: pd.DataFrame, chosen: list[Head]) -> pd.DataFrame:
    """The rows of some heads, in the order of these."""
    place = {head: number for number, head in enumerate(chosen)}
    order = pd.Series([place.get(head, -1) for head in zip(rows["layer"], rows["head"], strict=True)], index=rows.index)
    return rows.assign(order=order)[order >= 0].sort_values("order", kind="stable").drop(columns="order")


def show_scatter(found: HeadTable, chosen: set[Head] | None) -> None:
    titles = {metric.name: metric.title for metric in found.metrics}
    by_name = {metric.name: metric for metric in found.metrics}
    places = st.columns([3, 3, 2], vertical_alignment="bottom")
    axes = [
        _axis(place, label, list(titles), by_name, start)
        for place, label, start in zip(places[:2], ("Across", "Up"), ("previous_token", "first_token"), strict=True)
    ]
    robust = places[2].toggle(
        "Robust", key="heads robust", persist_state="session",
        help="Both axes by arcsinh(value / median size): linear near 0, logarithmic far from it, so that a few large "
        "composed weights do not press all others together. Ticks and hover give the values.",
    )  # fmt: skip

    def take() -> None:
        points = st.session_state["heads scatter"].selection.points
        if points:
            st.session_state.heads_chosen = _head_of(found.table.loc[points[0]["customdata"]])

    named = {axis: f"{titles[axis]} ({by_name[axis].unit})" for axis in axes}
    names = (named[axes[0]], named[axes[1]])
    figure = head_scatter_figure(found.table, axes[0], axes[1], names, chosen, robust)
    show_figure(figure, key="heads scatter", name="heads", on_select=take, selection_mode="points")
    st.caption("A thin line joins the raw and the composed point of a head. Click a point to see its head.")


def _axis(place: object, label: str, names: list[str], metrics: dict[str, Metric], start: str) -> str:
    key = f"heads {label}"
    if st.session_state.get(key) not in names:
        st.session_state[key] = start if start in names else names[0]
    return place.selectbox(  # type: ignore[attr-defined]
        label, names, format_func=lambda n: metrics[n].title, key=key, persist_state="session",
        help=plain(metrics[st.session_state[key]].definition),
    )  # fmt: skip


def _head_of(row: pd.Series) -> Head:
    return int(row["layer"]), int(row["head"])


def show_table(found: HeadTable, rows: pd.DataFrame) -> None:
    def take(row: int) -> None:
        st.session_state.heads_chosen = _head_of(rows.iloc[row])

    # the rows of another filter are another table: a row that was selected in the last one means nothing here
    key = f"heads table {hash(tuple(rows.index))}"
    pinned = {
        name: st.column_config.Column(name, pinned=True, width=88 if name == "stage" else 60)
        for name in ("layer", "head", "stage")
    }
    table(rows, "heads", key=key, columns=pinned | metric_columns(found.metrics), height=320, on_row=take)


def show_chosen(found: HeadTable, question: tuple[str, str], run: Capture) -> None:
    """Both stages of the head that was clicked or selected."""
    chosen: Head | None = st.session_state.get("heads_chosen")
    rows = found.table[[chosen == head for head in zip(found.table["layer"], found.table["head"], strict=True)]]
    if chosen is None or rows.empty:
        st.info("Click a point, or select a row of the table, to see a head and to open it in Explore.")
        return
    st.markdown(f"**Layer {chosen[0]}, head {chosen[1]}**")
    numbers = rows.set_index("stage")[[metric.name for metric in found.metrics]].T
    numbers.insert(0, "metric", [metric.title for metric in found.metrics])
    form = {stage: st.column_config.NumberColumn(format="%.3f", width=80) for stage in ("raw", "composed")}
    st.dataframe(numbers, hide_index=True, height=380, key="heads chosen", column_config=form, placeholder="–")
    explore_button(question, run, *chosen)


# -- what mixing changes -----------------------------------------------------------------------------


def show_distances(found: HeadTable, question: tuple[str, str], run: Capture) -> None:
    st.caption(
        "How far mixing takes each head's map: scores at the site pre, the pattern at the site post. Click a head."
    )
    layers, heads = sorted(run.layers), range(run.cfg.n_heads)
    event = read_event("head distances", (len(layers), len(heads)))
    if event.pick is not None:
        st.session_state.heads_chosen = (layers[event.pick[0]], event.pick[1])
    chosen: Head | None = st.session_state.get("heads_chosen")
    if chosen is not None and (chosen[0] not in layers or chosen[1] not in heads):
        chosen = None
    panels = [
        Panel(metric.title, found.table.pivot(index="layer", columns="head", values=metric.name).to_numpy(float),
              unit=metric.unit, signed=False)
        for metric in found.metrics
    ]  # fmt: skip
    view = MapView(
        panels=panels, rows=Labels("layer", [f"L{layer}" for layer in layers]),
        cols=Labels("head", [f"H{head}" for head in heads]),
        selected=None if chosen is None else (layers.index(chosen[0]), chosen[1]),
    )  # fmt: skip
    show_maps(view, key="head distances", name="raw_to_composed", height=190)
    if chosen is not None:
        explore_button(question, run, *chosen)

    def take(row: int) -> None:
        st.session_state.heads_chosen = _head_of(found.table.iloc[row])

    table(found.table, "raw_to_composed", key="heads distances", columns=metric_columns(found.metrics), height=320,
          on_row=take)  # fmt: skip
    definitions(found.metrics, found.missing)


ABOUT = {
    "diversity": "How different the heads of each layer are, raw and composed. Dotted: heads that are all alike.",
    "mixing": "What the mixing matrices are like, layer by layer and site by site. Dotted: a model that mixes nothing. "
    "Shares are those of the centred split, with expectations over this text.",
}


def show_by_layer(found: HeadTable, kind: str) -> None:
    st.caption(ABOUT[kind])
    if found.metrics:
        panels = [LayerPanel(m.name, m.title, m.unit, m.baseline) for m in found.metrics]  # type: ignore[attr-defined]
        series = "stage" if kind == "diversity" else "site"
        show_figure(by_layer_figure(found.table, series, panels), key=f"heads {kind}", name=kind)
        table(found.table, kind, key=f"heads table of {kind}", columns=metric_columns(found.metrics))
    definitions(found.metrics, found.missing)


page()
