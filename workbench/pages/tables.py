"""Tables that can be downloaded, and metrics that say what they mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, Literal

import pandas as pd
import streamlit as st

from probes.metrics import Metric


def table(
    frame: pd.DataFrame, name: str, *, key: str, columns: Mapping[str, Any], height: int | Literal["auto"] = "auto",
    rows_shown: int | None = None, on_row: Callable[[int], None] | None = None,
) -> None:  # fmt: skip
    """A table with a button that downloads all of it as CSV.

    Args:
        name: of the file, without its ending. key: of the widget. columns: how columns are shown.
        height: in pixels. rows_shown: how many from the top; None = all. The download always holds all.
        on_row: called with the number of a row that was selected, before the page runs again.
    """

    def chosen() -> None:
        rows = st.session_state[key].selection.rows
        if rows and on_row is not None:
            on_row(rows[0])

    select: Any = {"on_select": chosen, "selection_mode": "single-row"} if on_row is not None else {}
    st.dataframe(
        frame[:rows_shown], hide_index=True, width="stretch", height=height, key=key, column_config=dict(columns),
        placeholder="–", **select,
    )  # fmt: skip
    st.download_button(
        "Download CSV", frame.to_csv(index=False), f"{name}.csv", "text/csv", icon=":material/download:",
        on_click="ignore", key=f"{key} csv",
    )  # fmt: skip


def metric_columns(metrics: Sequence[Metric]) -> dict[str, Any]:
    """How the columns of a head table are shown: titles, four significant digits, and the definition on hover."""
    return {
        metric.name: st.column_config.NumberColumn(
            metric.title, help=plain(f"{metric.unit}. {metric.definition}"), format="%.4g", width=_width(metric)
        )
        for metric in metrics
    }


def _width(metric: Metric) -> int:
    """Pixels that show a title as far as a column may be wide."""
    return min(260, 44 + 7 * len(metric.title))


def definitions(metrics: Sequence[Metric], missing: Mapping[str, str]) -> None:
    """What the metrics of a table mean, behind a click; and in plain sight what could not be measured."""
    with st.expander("Definitions, units and ranges", icon=":material/help:"):
        for metric in metrics:
            st.markdown(_definition(metric))
    if missing:
        st.caption(plain("Not measured here: " + "; ".join(f"{title}: {why}" for title, why in missing.items())))


def explain(metric: Metric, key: str) -> None:
    """What one measure means, a click away."""
    with st.popover("What is this?", icon=":material/help:", type="tertiary", key=key):
        st.markdown(_definition(metric))


def _definition(metric: Metric) -> str:
    where = "; ".join(f"{name} {_number(low)} to {_number(high)}" for name, (low, high) in metric.ranges.items())
    refused = "".join(f" Not defined for {name}: {why}" for name, why in metric.refusals.items())
    return f"**{plain(metric.title)}** {plain(f'({metric.unit}; {where}). {metric.definition}{refused}')}"


def plain(text: str) -> str:
    """The text with every sign that Markdown would read as its own escaped."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|~$:<>])", r"\\\1", text)


def _number(value: float) -> str:
    return {inf: "∞", -inf: "−∞"}.get(value, f"{value:.3g}")
