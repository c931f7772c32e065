"""Models on the in-context tasks as a person asks for it, and the result as tables to show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from probes.tasks import FAMILIES, RULES, TaskRow, TaskScores, compare_scores, generate
from probes.tasks.generator import DEMONSTRATIONS, LINES
from probes.tasks.rows import BRACKETED, plain
from workbench.task_rows import RowName

MOST_ANSWERS = 20_000


@dataclass(frozen=True)
class TaskRequest:
    """Everything that decides the scores, as plain values.

    families, rules: which rules rows are made of: those that are in one of the families and among the rules; () = all.
    rows: of each rule. split, lines, demonstrations: see probes.tasks.generate.
    """

    models: tuple[str, ...]
    families: tuple[str, ...] = ()
    rules: tuple[int, ...] = ()
    rows: int = 1
    seed: int = 0
    split: str = "held_out"
    lines: int = LINES
    demonstrations: int = DEMONSTRATIONS

    @property
    def rule_ids(self) -> list[int]:
        return [
            number for number, rule in RULES.items()
            if (not self.families or rule.family in self.families) and (not self.rules or number in self.rules)
        ]  # fmt: skip

    @property
    def answers(self) -> int:
        """How many there are to score."""
        return len(self.rule_ids) * self.rows * (self.lines - self.demonstrations)

    @property
    def made_from(self) -> tuple[Any, ...]:
        """What decides the rows, whichever model reads them."""
        return tuple(self.rule_ids), self.rows, self.seed, self.split, self.lines, self.demonstrations

    def check(self) -> None:
        """Refuse what cannot be made or takes too long.

        Raises:
            ValueError: in one sentence.
        """
        if not self.models:
            raise ValueError("No model was chosen. Choose at least one.")
        for family in self.families:
            if family not in FAMILIES:
                raise ValueError(f"There is no family {family!r}. Choose from {', '.join(FAMILIES)}.")
        for number in self.rules:
            if number not in RULES:
                raise ValueError(f"There is no rule {number}: the ids run from 0 to {max(RULES)}. Choose one of these.")
        if not self.rule_ids:
            raise ValueError("None of the rules chosen is of the families chosen. Choose rules of these families.")
        # one row says it for all
        generate([0], min(self.rows, 1), self.seed, self.split, 0, self.lines, self.demonstrations)

    def check_size(self) -> None:
        """Refuse what would take too long on a page.

        Raises:
            ValueError: more than MOST_ANSWERS.
        """
        if self.answers > MOST_ANSWERS:
            raise ValueError(
                f"These are {self.answers:,} answers, and {MOST_ANSWERS:,} are scored at a time here. Choose fewer "
                "rows or rules, or use the command line: python -m workbench tasks."
            )

    def task_rows(self) -> list[TaskRow]:
        """The rows, rule after rule.

        Raises:
            ValueError: what check refuses.
        """
        self.check()
        return generate(
            self.rule_ids, self.rows, self.seed, self.split, lines=self.lines, demonstrations=self.demonstrations
        )

    def number_of(self, name: RowName) -> int | None:
        """The number of a named row among all, or None where it is none of them."""
        rules = self.rule_ids
        alike = (name.seed, name.split, name.lines, name.demonstrations) == (
            self.seed, self.split, self.lines, self.demonstrations
        )  # fmt: skip
        if not alike or name.task_id not in rules or name.index >= self.rows or name.line >= self.lines:
            return None
        return rules.index(name.task_id) * self.rows + name.index

    def name_of(self, row: int, line: int) -> RowName:
        """The name of a line, by the number of its row among all."""
        rule, index = divmod(row, self.rows)
        return RowName(self.rule_ids[rule], index, self.seed, self.split, self.lines, self.demonstrations, line)


@dataclass(frozen=True)
class TaskResult:
    """What was asked for, the rows, and the scores of each model. Tables are made once: a page shows them again at
    every click, and intervals over thousands of resamples take a second."""

    request: TaskRequest
    rows: list[TaskRow]
    scores: Mapping[str, TaskScores]
    _kept: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict, init=False, repr=False, compare=False)

    def _once(self, table: str, by: str, build: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        if (table, by) not in self._kept:
            self._kept[table, by] = build()
        return self._kept[table, by].copy()

    def accuracy(self, by: str = "family") -> pd.DataFrame:
        """A row for each group (and "overall") and model: columns group, model, then those of TaskScores.by."""
        return self._once("accuracy", by, lambda: self._accuracy(by))

    def _accuracy(self, by: str) -> pd.DataFrame:
        tables = [
            scores.by(by).rename_axis("group").reset_index().assign(model=name) for name, scores in self.scores.items()
        ]
        found = pd.concat(tables)
        found.insert(1, "model", found.pop("model"))
        return found.sort_values("group", key=_as_listed(tables[0].group), kind="stable").reset_index(drop=True)

    def differences(self, by: str = "family") -> pd.DataFrame:
        """The first model minus each other one: columns group, against, then those of compare_scores; empty for one."""
        return self._once("differences", by, lambda: self._differences(by))

    def _differences(self, by: str) -> pd.DataFrame:
        first, *others = self.scores
        tables = [
            compare_scores(self.scores[first], self.scores[other], by)
            .rename_axis("group")
            .reset_index()
            .assign(against=other)
            for other in others
        ]
        if not tables:
            return pd.DataFrame()
        found = pd.concat(tables, ignore_index=True)
        found.insert(1, "against", found.pop("against"))
        return found

    def answers(self) -> pd.DataFrame:
        """A row for each answer; columns row (its number), task_id, family, line, question, answer, foil, of each model
        "model: gave" and "model: right", and of each "model: P(answer)" and "model: P(foil)" (of the first tokens)."""
        return self._once("answers", "", self._answers)

    def _answers(self) -> pd.DataFrame:
        first = next(iter(self.scores.values())).answers
        found = pd.DataFrame(
            {
                "row": [one.row for one in first], "task_id": [one.task_id for one in first],
                "family": [one.family for one in first], "line": [one.line for one in first],
                "question": [asked(self.rows[one.row].lines[one.line]) for one in first],
                "answer": [one.text for one in first], "foil": [one.foil for one in first],
            }
        )  # fmt: skip
        for name, scores in self.scores.items():
            found[f"{name}: gave"] = [one.given for one in scores.answers]
            found[f"{name}: right"] = [one.right for one in scores.answers]
        for name, scores in self.scores.items():
            found[f"{name}: P(answer)"] = [one.first_probability for one in scores.answers]
            found[f"{name}: P(foil)"] = [one.foil_probability for one in scores.answers]
        return found


def short_names(models: Iterable[str]) -> dict[str, str]:
    """What models are called in a table: the last part of their names, where this tells them apart."""
    names = {name: name.rstrip("/").rpartition("/")[2] for name in models}
    return names if len(set(names.values())) == len(names) else {name: name for name in names}


def asked(line: str) -> str:
    """What a line asks: the text before its answer, from the end of its statements."""
    found = BRACKETED.search(line)
    text = plain(line) if found is None else line[: found.start()]
    return text.rpartition(">. ")[2].strip()


def outcomes(models: list[str]) -> list[str]:
    """What rows can be filtered by: what became of their answers."""
    each = [f"{name} {how}" for name in models for how in ("wrong", "right")]
    return ["all", *(["models disagree", "all models wrong"] if len(models) > 1 else []), *each]


def filtered(answers: pd.DataFrame, families: list[str], rules: list[int], outcome: str) -> pd.DataFrame:
    """Some of TaskResult.answers: of some families and rules ([] = all), and with one of outcomes.

    Raises:
        ValueError: an unknown outcome.
    """
    right = {name[: -len(": right")]: answers[name] for name in answers if name.endswith(": right")}
    if outcome not in outcomes(list(right)):
        raise ValueError(f"Unknown outcome {outcome!r}. Choose from {', '.join(outcomes(list(right)))}.")
    table = pd.DataFrame(right)
    kept: pd.Series = pd.Series(True, index=answers.index)
    if families:
        kept &= answers.family.isin(families)
    if rules:
        kept &= answers.task_id.isin(rules)
    if outcome == "models disagree":
        kept &= table.nunique(axis=1) > 1
    elif outcome == "all models wrong":
        kept &= ~table.any(axis=1)
    elif outcome != "all":
        name, _, how = outcome.rpartition(" ")
        kept &= table[name] == (how == "right")
    return answers[kept]


def _as_listed(order: pd.Series) -> Callable[[pd.Series], pd.Series]:
    places = {name: place for place, name in enumerate(order)}
    return lambda names: names.map(places)
