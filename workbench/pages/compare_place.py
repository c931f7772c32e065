"""Where a person looks on the Compare page: a query and key, and a head of each side. Kept while A stays the same."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from workbench import comparison_views, comparisons
from workbench.comparison_views import Aligned
from workbench.comparisons import Place, Reading, Side
from workbench.pages.address import restored
from workbench.session import Workbench
from workbench.viewer.component import read_event

Asked = tuple[Side, Side, bool]
"""Both sides, and whether head h of one is head h of the other whatever the models are called."""
Head = tuple[int, int]
OVERVIEW, MAPS = "compare heads", "compare maps"
"""Keys of the two viewers."""


def current_place(bench: Workbench, asked: Asked, reading: Reading) -> tuple[Place, Aligned]:
    """What is looked at, and the maps there; for what nobody has chosen yet, where the sides differ most."""
    state = st.session_state
    _begin(asked)
    _drop_what_is_not_there(reading)
    size = (len(reading.pairs),) * 2
    on_heads, on_maps = (read_event(key, of) for key, of in ((OVERVIEW, reading.shapes[0]), (MAPS, size)))
    if on_heads.pick is not None:
        choose_head(*on_heads.pick)
    head_a, head_b = _heads(reading)
    maps = bench.side_maps(asked[0], *head_a), bench.side_maps(asked[1], *head_b)
    values = comparison_views.aligned_maps(maps, reading, state["compare map"], state["compare stage"])
    if on_maps.pick is not None:
        query, key = comparison_views.snap(values, on_maps.pick, state["compare window"])
        state["compare at"], state["compare key"] = reading.pairs[query][0], reading.pairs[key][0]
    if on_maps.window is not None:
        state["compare window"] = on_maps.window
    query = _query(reading)
    state["compare at"] = reading.pairs[query][0]  # where the nearest aligned token is
    if state["compare key"] is None:
        state["compare key"] = reading.pairs[comparison_views.strongest_key(values, query)][0]
    return Place(head_a, head_b, query, reading.pair_of(state["compare key"])), values


def go_to(position: int) -> None:
    """Look at a query, a position of A."""
    st.session_state["compare at"], st.session_state["compare key"] = position, None


def go_to_key(position: int) -> None:
    """Look at a key, a position of A."""
    st.session_state["compare key"] = position


def go_to_other(reading: Reading, position: int, go: Callable[[int], None]) -> None:
    """Look at the aligned pair that is nearest to a position of B."""
    go(min(reading.pairs, key=lambda pair: abs(pair[1] - position))[0])


def choose_head(layer: int, head: int) -> None:
    """Look at a head of A, and at its partner."""
    st.session_state["compare head"], st.session_state["compare other head"] = (layer, head), None


# -- beginnings --------------------------------------------------------------------------------------


def _begin(asked: Asked) -> None:
    """Forget what was looked at in another comparison."""
    state = st.session_state
    before: Asked | None = state.get("compare asked")
    state["compare asked"] = asked
    if before == asked or restored():
        return
    forgotten = ["compare other head", "compare window"]
    if before is None or (before[0].model, before[0].prompt) != (asked[0].model, asked[0].prompt):
        forgotten += ["compare at", "compare key", "compare head"]
    state.update(dict.fromkeys(forgotten))


def _drop_what_is_not_there(reading: Reading) -> None:
    """Places that this comparison lacks; a link that named them is told so."""
    state, length = st.session_state, len(reading.str_tokens[0])
    lacking = [key for key in ("compare at", "compare key") if state[key] is not None and state[key] >= length]
    for key, (layers, heads) in zip(("compare head", "compare other head"), reading.shapes, strict=True):
        if state[key] is not None and not (state[key][0] < layers and state[key][1] < heads):
            lacking.append(key)
    window = state["compare window"]
    if window is not None and max(window[0][1], window[1][1]) > len(reading.pairs):
        lacking.append("compare window")
    if lacking and restored():
        st.warning(
            "The link names a place that these runs do not have. Another one is shown.", icon=":material/link_off:"
        )
    state.update(dict.fromkeys(lacking))


def _query(reading: Reading) -> int:
    """The aligned pair that is the query; at first the one whose predictions differ most."""
    state = st.session_state
    if state["compare at"] is None:
        state["compare at"] = int(comparisons.most_changed_tokens(reading)["position_a"].iloc[0])
    return reading.pair_of(state["compare at"])


def _heads(reading: Reading) -> tuple[Head, Head]:
    """The two heads; at first the pair that differs most, and beside a chosen head its partner."""
    state = st.session_state
    if state["compare head"] is None:
        rows = comparisons.most_changed_heads(reading)
        state["compare head"] = (0, 0) if rows.empty else (int(rows["layer"].iloc[0]), int(rows["head_a"].iloc[0]))
    if state["compare other head"] is None:
        state["compare other head"] = reading.opposite(*state["compare head"])
    return state["compare head"], state["compare other head"]
