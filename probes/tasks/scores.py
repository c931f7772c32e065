"""Scores of task answers: one by one, and as shares with intervals by family, rule or line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import pandas as pd

from probes.per_sequence import PerSequence
from probes.tasks.rules import FAMILIES

COLUMNS = ("answers", "exact_match", "low", "high", "chance", "token_accuracy", "nats_per_token")
OVERALL = "overall"


@dataclass(frozen=True)
class AnswerScore:
    """One answer of one row, under one model.

    row: its number among the rows that were scored. line: among the row's lines. text: the right answer.
    tokens: how many it has. tokens_right: how many of them were the first choice. nats: the sum of their losses.
    chance: 1 / candidates. given: the first choices as text, each token chosen after the right ones before it.
    foil: another candidate, "" where there is none. first_probability, foil_probability: of the answer's first token
    and of the foil's, in the same place; nan without a foil.
    """

    row: int
    line: int
    task_id: int
    family: str
    text: str
    tokens: int
    tokens_right: int
    nats: float
    chance: float
    given: str
    foil: str
    first_probability: float
    foil_probability: float

    @property
    def right(self) -> bool:
        return self.tokens_right == self.tokens


GROUPINGS: dict[str, Callable[[AnswerScore], str]] = {
    "family": lambda answer: answer.family,
    "rule": lambda answer: f"task {answer.task_id}",
    "line": lambda answer: f"line {answer.line}",
}
"""What answers can be grouped by, and what a group is called."""


@dataclass(frozen=True)
class TaskScores:
    """The scores of all answers, in the order of the rows."""

    answers: list[AnswerScore]

    def each(self, by: str = "family") -> pd.DataFrame:
        """A row for each answer: the fields of AnswerScore, right, and the group that it belongs to.

        Raises:
            ValueError: an unknown grouping.
        """
        if by not in GROUPINGS:
            raise ValueError(f"Answers cannot be grouped by {by!r}. Choose from {', '.join(GROUPINGS)}.")
        name = GROUPINGS[by]
        return pd.DataFrame([asdict(one) | {"right": one.right, "group": name(one)} for one in self.answers])

    def by(self, grouping: str) -> pd.DataFrame:
        """A row for each family, rule ("task 12") or line ("line 2") that has answers, and "overall".

        Columns: answers (how many), exact_match and chance (share of answers), low and high (95% interval of
        exact_match, see PerSequence.wilson), token_accuracy (share of answer tokens), nats_per_token (mean negative
        log-likelihood of an answer token).
        """
        each = self.each(grouping)
        found = {name: _means(each[each.group == name]) for name in groups(each, grouping)}
        return pd.DataFrame(found | {OVERALL: _means(each)}).T.astype({"answers": int})

    def table(self, rules: bool = False) -> pd.DataFrame:
        """The table by family, with rules=True the rules below the families; columns as in `by`."""
        families = self.by("family")
        return families if not rules else pd.concat([families[:-1], self.by("rule")])

    def markdown(self, rules: bool = False) -> str:
        """The table as a Markdown table; shares with 3 digits."""
        lines = ["| | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
        for name, row in self.table(rules).iterrows():
            numbers = " | ".join(f"{row[column]:.3f}" for column in COLUMNS[1:])
            lines.append(f"| {name} | {int(row['answers'])} | {numbers} |")
        return "\n".join(lines)


def groups(each: pd.DataFrame, grouping: str) -> list[str]:
    """Names of the groups in their order: families as listed, rules and lines by number."""
    if grouping == "family":
        return [family for family in FAMILIES if family in set(each.group)]
    order = {"rule": "task_id", "line": "line"}[grouping]
    return list(each.sort_values(order, kind="stable").group.unique())


def right_by_row(each: pd.DataFrame) -> PerSequence:
    """How many answers of each row are right, and how many it has."""
    rows = each.groupby("row").right
    return PerSequence(rows.sum().to_numpy(float), rows.count().to_numpy(float))


def _means(group: pd.DataFrame) -> dict[str, float]:
    low, high = right_by_row(group).wilson()
    return {
        "answers": len(group),
        "exact_match": group.right.mean(),
        "low": low,
        "high": high,
        "chance": group.chance.mean(),
        "token_accuracy": group.tokens_right.sum() / group.tokens.sum(),
        "nats_per_token": group.nats.sum() / group.tokens.sum(),
    }
