"""What the tables and lists of the Tasks page say: columns of answers, and rules by what they ask."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from probes.tasks import RULES
from workbench.viewer.view import visible_token


def rule_label(number: int) -> str:
    rule = RULES[number]
    link = f", {label}" if (label := rule.labelling.link.format(unit="time").strip()) else ""
    return f"{number}: {rule.topic}, {rule.form}{link}, {rule.wording}"


def rule_choice(place: Any, label: str, families: list[str], key: str) -> list[int]:
    """Rules of some families (none named: of all), and those that were chosen already."""
    chosen = st.session_state.get(key) or []
    offered = [number for number, rule in RULES.items() if not families or rule.family in families or number in chosen]
    return place.multiselect(
        label, offered, key=key, placeholder="all", format_func=rule_label, persist_state="session"
    )


def printable(answers: pd.DataFrame) -> pd.DataFrame:
    """The same with control signs in texts made visible."""
    texts = {name: answers[name].map(visible_token) for name in answers if name.endswith(": gave")}
    return answers.assign(**texts)


def answer_columns(names: dict[str, str]) -> dict[str, Any]:
    number = st.column_config.NumberColumn
    config: dict[str, Any] = {
        "row": number("row", help="Its number among all rows.", width=54), "task_id": number("rule", width=54),
        "family": None, "line": number("line", help="Of the row; 0 is the first.", width=54),
        "question": st.column_config.TextColumn(width=230),
        "foil": st.column_config.TextColumn(help="The first other answer that the line's words offer."),
    }  # fmt: skip
    for model, name in names.items():
        config[f"{model}: gave"] = st.column_config.TextColumn(
            f"{name}: gave", help="The first choices, each made after the right tokens before it."
        )
        config[f"{model}: right"] = st.column_config.CheckboxColumn(f"{name}: right")
        for of, text in (("P(answer)", "right answer's first token"), ("P(foil)", "foil's first token")):
            config[f"{model}: {of}"] = number(
                f"{name}: {of}", help=f"Probability of the {text}, 0 to 1.", format="%.3f"
            )
    return config
