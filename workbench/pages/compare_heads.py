"""Heads on the Compare page: how far each is from its partner, the maps of a pair, and their metrics."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from probes.comparison import PAIRINGS
from probes.metrics import HEAD_METRICS
from workbench import comparison_views, comparisons
from workbench.comparison_views import Aligned
from workbench.comparisons import Place, PlaceReading, Reading, Side
from workbench.figures import metric_pairs_figure
from workbench.pages.compare_place import MAPS, OVERVIEW, Asked, Head, choose_head
from workbench.pages.downloads import show_figure, show_maps
from workbench.pages.explore_link import open_in_explore
from workbench.pages.shared import attempt
from workbench.pages.tables import definitions, explain, plain, table
from workbench.session import Workbench
from workbench.viewer import MapView
from workbench.viewer.view import visible_token
from workbench.views import KINDS, Selection


def show_heads(reading: Reading, place: Place, here: PlaceReading) -> None:
    st.markdown("##### Which heads differ?")
    st.caption(plain(f"Heads: {PAIRINGS[reading.pairing]}. Click a head of A to see its maps."))
    explain(comparisons.HEAD_DISTANCE, "explain compare heads")
    position = reading.pairs[place.query][0]
    show_maps(
        comparison_views.pair_overview(reading, here, position, place.a),
        key=OVERVIEW,
        name="compared_heads",
        height=170,
    )
    if reading.pairing == "unpaired":
        st.info("These heads are not paired. Choose one of each side below to see their maps together.")
    elif len(reading.unpaired):
        heads = ", ".join(f"{row.side.upper()} L{row.layer} H{row.head}" for row in reading.unpaired.itertuples())
        st.caption(f"Unpaired: {heads}.")


def show_maps_of(bench: Workbench, asked: Asked, reading: Reading, place: Place, values: Aligned) -> None:
    """The two maps of the chosen heads and their difference."""
    st.markdown(f"##### A's {_at(place.a)} and B's {_at(place.b)}")
    aligned = "" if reading.same_prompt else " The maps show aligned tokens alone; 7/2 is position 7 in A and 2 in B."
    st.caption(plain(_said_of_pair(reading, place) + aligned))
    kind, stage = _choose_map(reading)
    window = st.session_state["compare window"]

    def view(values: Aligned) -> MapView:
        return comparison_views.pair_maps(values, reading, kind, stage, (place.query, place.key), window)

    def again() -> MapView:  # kept for the downloads as long as the session lives: it must not hold the maps
        maps = bench.side_maps(asked[0], *place.a), bench.side_maps(asked[1], *place.b)
        return view(comparison_views.aligned_maps(maps, reading, kind, stage))

    show_maps(view(values), key=MAPS, name=f"compared_{kind}_{stage}", again=again)
    _show_cell(values, reading, place)
    _show_ways_to_explore(bench, asked, reading, place)


def _said_of_pair(reading: Reading, place: Place) -> str:
    """Whether these heads belong together, and how surely."""
    partner = reading.partner(*place.a)
    if partner is None:
        return "Unpaired: the head of B stands beside that of A only to be looked at."
    if place.b != (place.a[0], partner):
        return f"Not a pair: the partner of A's head is head {partner}. B's was chosen by hand."
    rows = reading.heads
    row = rows[(rows["layer"] == place.a[0]) & (rows["head_a"] == place.a[1])].iloc[0]
    if reading.pairing == "same":
        return f"The same head of both sides. Distance {row.distance:.4f}."
    clear = "a clear match" if row.runner_up > row.distance else "no clear match, it took what other heads had left"
    return f"Matched at distance {row.distance:.4f}; the next head of B is {row.runner_up:.4f} away: {clear}."


def _choose_map(reading: Reading) -> tuple[str, str]:
    def follow() -> None:
        st.session_state["compare other head"] = None

    places = st.columns([2, 2, 3, 3], vertical_alignment="bottom")
    kind = places[0].segmented_control("Map", list(KINDS), required=True, key="compare map") or "pattern"
    stage = places[1].segmented_control("Stage", ["raw", "composed"], required=True, key="compare stage") or "composed"
    options = [list(product(range(layers), range(heads))) for layers, heads in reading.shapes]
    places[2].selectbox("Head of A", options[0], key="compare head", format_func=_at, on_change=follow)
    places[3].selectbox("Head of B", options[1], key="compare other head", format_func=_at)
    return kind, stage


def _show_cell(values: Aligned, reading: Reading, place: Place) -> None:
    """The outlined cell in numbers."""
    cell = place.query, place.key
    a, b = (float(of_side[cell]) for of_side in values)
    names = comparison_views.pair_names(reading)
    named = [visible_token(names[at]) for at in cell]
    query, key = named if not reading.same_prompt else (f"{at}: {name}" for at, name in zip(cell, named, strict=True))
    shown = " ".join(f"{side} {_value(value)}   " for side, value in (("A", a), ("B", b), ("B - A", b - a)))
    st.code(f"query {query}    key {key}    {shown}", language=None, wrap_lines=True)


def _value(value: float) -> str:
    return "not visible" if np.isnan(value) else f"{value:.4f}"


def _show_ways_to_explore(bench: Workbench, asked: Asked, reading: Reading, place: Place) -> None:
    """Each side's run as it is, with its change in place."""
    pairs = reading.pairs[place.query], reading.pairs[place.key]
    with st.container(horizontal=True):
        for number, (name, side, head) in enumerate(zip("AB", asked[:2], (place.a, place.b), strict=True)):
            at = Selection(*head, pairs[0][number], pairs[1][number])
            if st.button(f"Open {name} in Explore", icon=":material/open_in_new:", key=f"compare explore {name}"):
                open_in_explore(attempt(partial(_name_of, bench, side)), side.prompt, at)


def _name_of(bench: Workbench, side: Side) -> str:
    """The name of a side's model with its change in place."""
    return bench.under(side.model, bench.side_change(side) or "")


# -- metrics -----------------------------------------------------------------------------------------


def show_metrics(bench: Workbench, asked: Asked, reading: Reading, place: Place) -> None:
    st.markdown("##### Head metrics, side by side")
    if reading.pairing == "unpaired":
        st.info(
            "Metrics stand side by side for paired heads, and these are not paired. See each model on the Heads page."
        )
        return
    with st.spinner("Measuring both sides ...", show_time=True):
        found = attempt(lambda: bench.compared_metrics(*asked))
    metrics = [metric for metric in HEAD_METRICS if metric.name in set(found["metric"])]
    titles = {metric.name: metric.title for metric in metrics}
    if st.session_state["compare metric"] not in titles:  # the prompts do not allow it
        st.session_state["compare metric"] = metrics[0].name
    left, right = st.columns([5, 6])
    with left:
        name = st.selectbox(
            "Metric of all pairs of heads", list(titles), key="compare metric", format_func=titles.__getitem__
        )
        show_scatter(found[found["metric"] == name], next(m.unit for m in metrics if m.name == name), place)
    with right:
        show_pair(found, titles, place)
    missing = {m.title: f"needs {m.needs} in both prompts" for m in HEAD_METRICS if m.name not in titles}
    definitions(metrics, missing)


def show_scatter(rows: pd.DataFrame, unit: str, place: Place) -> None:
    def take() -> None:
        points = st.session_state["compare scatter"].selection.points
        if points:
            row = rows.loc[points[0]["customdata"]]
            choose_head(int(row["layer"]), int(row["head_a"]))

    figure = metric_pairs_figure(rows, unit, place.a)
    show_figure(figure, key="compare scatter", name="compared_metric", on_select=take, selection_mode="points")
    st.caption("On the dotted line both sides are equal. Click a point to see its pair.")


def show_pair(found: pd.DataFrame, titles: dict[str, str], place: Place) -> None:
    st.markdown(f"All metrics of A's {_at(place.a)} and its partner")
    rows = found[(found["layer"] == place.a[0]) & (found["head_a"] == place.a[1])]
    if rows.empty:
        st.info("This head of A is unpaired.")
        return
    shown = rows.assign(metric=[titles[name] for name in rows["metric"]])[["metric", "stage", "a", "b", "difference"]]
    form = {"a": "A", "b": "B", "difference": "B - A"}
    columns: dict[str, Any] = {
        name: st.column_config.NumberColumn(title, format="%.3g", width=64) for name, title in form.items()
    }
    columns |= {"metric": st.column_config.Column(width=190), "stage": st.column_config.Column(width=78)}
    table(shown, "compared_metrics_of_a_pair", key="compare pair metrics", columns=columns, height=430)
    st.download_button(
        "All pairs as CSV", found.to_csv(index=False), "compared_metrics.csv", "text/csv", on_click="ignore",
        icon=":material/download:", key="compare all metrics",
    )  # fmt: skip


def _at(head: Head) -> str:
    return f"layer {head[0]}, head {head[1]}"


def show_changed_heads(reading: Reading) -> None:
    rows = comparisons.most_changed_heads(reading)
    if rows.empty:
        return

    def take(row: int) -> None:
        choose_head(int(rows["layer"].iloc[row]), int(rows["head_a"].iloc[row]))

    titles = {"head_a": "head of A", "head_b": "head of B", "distance": "distance", "runner_up": "next head of B"}
    columns = {
        name: st.column_config.NumberColumn(title, format="%d" if "head_" in name else "%.4f")
        for name, title in titles.items()
    }
    shown = rows.drop(columns="runner_up") if reading.pairing == "same" else rows
    st.caption("The heads that differ most come first. Select a row to see its maps.")
    table(
        shown, "compared_heads", key=f"compare head table {reading.pairing}", columns=columns, height=250, on_row=take
    )
