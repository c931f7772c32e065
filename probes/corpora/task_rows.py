"""Rows of the in-context tasks as documents, every character labelled with what it is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from probes.corpora.corpus import Corpus, Document, Record
from probes.tasks import RULES, TaskRow, generate, read_tasks
from probes.tasks.roles import roles

TASKS = "tasks"
SETTINGS: dict[str, Any] = {"rows": 4, "seed": 0, "split": "train", "rules": "", "file": ""}


class TaskRows(Corpus):
    """Generated or stored task rows, with columns task_family, task_rule, task_form and task_role.

    Args:
        rules: None = all 74. rows: of each rule; every round takes one of each, so that a cut corpus has all.
        path: rows in the published form, in place of generated ones.
    """

    columns = ("task_family", "task_rule", "task_form", "task_role")

    def __init__(
        self, rules: list[int] | None = None, rows: int = 4, seed: int = 0, split: str = "train",
        path: Path | None = None,
    ):  # fmt: skip
        self.rules = sorted(RULES) if rules is None else rules
        self.rows, self.seed, self.split = rows, seed, split
        self.path = path
        self.stored = None if path is None else read_tasks(path)
        if self.stored is None:
            generate(self.rules, min(rows, 1), seed, split)  # raises what there is to raise, before anything is run

    @classmethod
    def from_spec(cls, spec: str) -> TaskRows:
        """From "tasks:rows=8,rules=0-7+12,seed=1,split=held_out" or "tasks:file=rows.jsonl"; every part has a default.

        Raises:
            ValueError: an unknown setting or a value that is not one.
        """
        given = dict(_setting(part, spec) for part in spec.partition(":")[2].split(",") if part.strip())
        if "file" in given:
            return cls(path=Path(given["file"]))
        try:
            numbers = {name: int(given.get(name, SETTINGS[name])) for name in ("rows", "seed")}
            rules = [rule for part in given.get("rules", "").split("+") if part for rule in _range(part)] or None
        except ValueError as error:
            raise ValueError(
                f"{spec!r} has a value that is no number. Write it as tasks:rows=8,rules=0-7+12."
            ) from error
        return cls(rules, numbers["rows"], numbers["seed"], given.get("split", str(SETTINGS["split"])))

    def records(self) -> Iterator[Record]:
        if self.stored is not None:
            for number, row in enumerate(self.stored):
                yield partial(_document, row, f"{self.path}, row {number}")
            return
        for index in range(self.rows):
            for rule in self.rules:
                yield partial(self._generated, rule, index)

    def describe(self) -> dict[str, Any]:
        if self.path is not None:
            return {"kind": "task rows", "files": [self.path.name]}
        return {"kind": "task rows", "rules": self.rules, "rows": self.rows, "seed": self.seed, "split": self.split}

    def _generated(self, rule: int, index: int) -> Document:
        (row,) = generate([rule], 1, self.seed, self.split, first=index)
        return _document(row, f"task{rule}, row {index}")


def _document(row: TaskRow, where: str) -> Document:
    rule = row.rule
    columns = {
        "task_family": rule.family, "task_rule": f"task{row.task_id}", "task_form": rule.form,
        "task_role": [[start, end, role] for start, end, role in roles(row)],
    }  # fmt: skip
    return Document(where, row.plain_text, None, columns)


def _setting(part: str, spec: str) -> tuple[str, str]:
    name, equals, value = part.strip().partition("=")
    if name not in SETTINGS or not equals:
        raise ValueError(f"{spec!r} has the part {part!r}. Known settings: {', '.join(SETTINGS)}, as name=value.")
    return name, value


def _range(part: str) -> range:
    first, _, last = re.sub(r"\s", "", part).partition("-")
    return range(int(first), int(last or first) + 1)
