"""Compare: two runs side by side, aligned by token and head, down to one cell of a map."""

from __future__ import annotations

import numpy as np
import streamlit as st

from probes.metrics import HEAD_METRICS
from workbench import comparison_views, comparisons
from workbench.comparisons import Place, PlaceReading, Reading
from workbench.figures import changed_tokens_figure, next_token_pairs_figure
from workbench.links import Field, choice_field, integer_field, places_field, window_field
from workbench.pages.address import address
from workbench.pages.compare_heads import show_changed_heads, show_heads, show_maps_of, show_metrics
from workbench.pages.compare_place import current_place, go_to, go_to_key, go_to_other
from workbench.pages.compare_sides import choose_sides, side_fields
from workbench.pages.copy_python import copy_as_python
from workbench.pages.downloads import show_figure
from workbench.pages.shared import attempt, choose_run, model_names, run_fields, workbench
from workbench.pages.tables import plain, table
from workbench.scripts import compare_script
from workbench.session import Workbench
from workbench.viewer.token_strip import token_strip
from workbench.viewer.view import visible_token
from workbench.views import KINDS


def page() -> None:
    bench = workbench()
    with address("compare", [*run_fields(bench, changed=False), *side_fields(), *PLACE_FIELDS]):
        compare(bench)


PLACE_FIELDS: list[Field] = [
    integer_field("compare at", "at", low=0), integer_field("compare key", "key", low=0),
    places_field("compare head", "head", ("layer", "head")),
    places_field("compare other head", "b-head", ("layer", "head")),
    choice_field("compare map", list(KINDS), "map", "pattern"),
    choice_field("compare stage", ["raw", "composed"], "stage", "composed"), window_field("compare window", "window"),
    choice_field("compare metric", [metric.name for metric in HEAD_METRICS], "metric"),
]  # fmt: skip


def compare(bench: Workbench) -> None:
    name, prompt, _ = choose_run(bench, changed=False)
    st.subheader("Two runs, side by side", anchor=False)
    asked = choose_sides(name, prompt, model_names())
    with st.spinner("Comparing ...", show_time=True):
        reading = attempt(lambda: bench.comparison(*asked))
        place, values = attempt(lambda: current_place(bench, asked, reading))
        here = attempt(lambda: bench.compared_place(*asked, place.query))
    show_numbers(reading)
    copy_as_python(compare_script(*asked, place, st.session_state["compare map"], st.session_state["compare stage"]))
    show_tokens(reading, place)
    show_changed_tokens(reading)
    show_predictions(reading, place, here)
    show_heads(reading, place, here)
    show_changed_heads(reading)
    show_maps_of(bench, asked, reading, place, values)
    show_metrics(bench, asked, reading, place)


# -- the parts of the page, top to bottom ------------------------------------------------------------


def show_numbers(reading: Reading) -> None:
    found = reading.summary
    numbers = st.columns(5)
    per_token = "Mean over the aligned tokens that have a following token on both sides, in nats per token."
    change = found["loss_b"] - found["loss_a"]
    numbers[0].metric("loss, A", _number(found["loss_a"]), help=per_token)
    numbers[1].metric(
        "loss, B", _number(found["loss_b"]), None if np.isnan(change) else f"{change:+.4f}", delta_color="inverse",
        help=f"{per_token} Below: B - A.",
    )  # fmt: skip
    numbers[2].metric("mean KL(A ‖ B)", _number(found["kl"]), help=f"Of the next-token distributions. {per_token}")
    numbers[3].metric(
        "same next token", "none" if np.isnan(found["same_next_token"]) else f"{found['same_next_token']:.1%}",
        help="Share of aligned positions at which both sides find the same token most likely.",
    )  # fmt: skip
    lengths = " and ".join(str(len(tokens)) for tokens in reading.str_tokens)
    numbers[4].metric("aligned tokens", len(reading.pairs), help=f"Of {lengths} tokens: those in both, in one order.")
    if found["note"]:
        st.caption(plain(found["note"]))
    if not reading.same_ids:
        st.info("The two models have different vocabularies: their predictions are listed apart and have no KL.")


def _number(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.4f}"


def show_tokens(reading: Reading, place: Place) -> None:
    st.markdown("##### Where do the predictions differ?")
    column = "kl" if reading.same_ids else "loss_change"
    meaning = "KL(A ‖ B) of what is predicted after it" if reading.same_ids else "loss of B - loss of A"
    by_pair = reading.tokens.assign(loss_change=reading.tokens.loss_b - reading.tokens.loss_a)[column].to_numpy()
    st.caption(
        f"Tokens: click chooses the query, shift-click the key. Shade: {meaning}; tokens without a partner are plain."
    )
    query, key = reading.pairs[place.query], reading.pairs[place.key]
    token_strip(
        reading.str_tokens[0], _spread(reading, by_pair, 0), query[0], key[0], widget_key="compare tokens",
        on_query=go_to, on_key=go_to_key,
    )  # fmt: skip
    if not reading.same_prompt:
        st.caption("B reads:")
        token_strip(
            reading.str_tokens[1], _spread(reading, by_pair, 1), query[1], key[1], widget_key="compare tokens b",
            on_query=lambda position: go_to_other(reading, position, go_to),
            on_key=lambda position: go_to_other(reading, position, go_to_key),
        )  # fmt: skip
    rows = reading.tokens
    names = [visible_token(token) for token in rows.token]
    figure = changed_tokens_figure(
        rows.loss_a.to_numpy(), rows.loss_b.to_numpy(), rows.kl.to_numpy(), names, place.query, ("A", "B"),
        comparison_views.places_named(reading),
    )  # fmt: skip
    st.caption(
        "Loss of the token after each position, from A (grey tick) to B (end of the bar): red where it is higher in B."
    )
    show_figure(figure, key="compare losses", name="compared_losses")


def _spread(reading: Reading, by_pair: np.ndarray, side: int) -> np.ndarray:
    """A value for every token of a side; nan where a token has no partner."""
    values = np.full(len(reading.str_tokens[side]), np.nan)
    values[[pair[side] for pair in reading.pairs]] = by_pair
    return values


def show_predictions(reading: Reading, place: Place, here: PlaceReading) -> None:
    a, b = reading.pairs[place.query]
    where = f"position {a}" if a == b else f"position {a} of A and {b} of B"
    st.markdown(f"##### Most likely next tokens after {where}")
    st.code(visible_token(reading.str_tokens[0][a]), language=None)
    rows = here.next
    names = [visible_token(one or other) for one, other in zip(rows.token_a, rows.token_b, strict=True)]
    left, right = st.columns([3, 2])
    with left:
        figure = next_token_pairs_figure(names, rows.p_a.to_numpy(float), rows.p_b.to_numpy(float))
        show_figure(figure, key="compare next", name="compared_next_tokens")
    with right:
        shown = rows.assign(token=names, difference=rows.p_b - rows.p_a)[["token", "p_a", "p_b", "difference"]]
        form = {"p_a": "A", "p_b": "B", "difference": "B - A"}
        columns = {name: st.column_config.NumberColumn(title, format="%.4f") for name, title in form.items()}
        table(shown, "compared_next_tokens", key="compare next table", columns=columns, height=300)


def show_changed_tokens(reading: Reading) -> None:
    rows = comparisons.most_changed_tokens(reading)

    def take(row: int) -> None:
        go_to(int(rows.position_a.iloc[row]))

    texts = ("token", "next_a", "next_b")
    shown = rows.assign(**{name: [visible_token(token) for token in rows[name]] for name in texts})
    titles = {
        "position_a": "position in A", "position_b": "position in B", "loss_a": "loss A (nats)",
        "loss_b": "loss B (nats)", "loss_change": "B - A", "kl": "KL(A ‖ B) (nats)", "next_a": "A predicts",
        "next_b": "B predicts",
    }  # fmt: skip
    numbers = ("loss_a", "loss_b", "loss_change", "kl")
    columns = {
        name: st.column_config.NumberColumn(title, format="%.4f") if name in numbers else st.column_config.Column(title)
        for name, title in titles.items()
    }
    st.caption("The tokens that differ most come first. Select a row to look at its position.")
    table(shown, "compared_tokens", key=f"compare token table {len(rows)}", columns=columns, height=250, on_row=take)


page()
