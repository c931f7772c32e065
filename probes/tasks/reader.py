"""Rows in the published form, one JSON object a line: {"task_id": "task12", "texts": "\\n<line>\\n<line>..."}."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from model.plain_words import parse_json, quoted
from probes.tasks.rows import BRACKETED, TaskRow
from probes.tasks.rules import RULES

_EMPTY_BRACKETS = re.compile(r"\[\s*\]")


def read_tasks(path: str | Path) -> list[TaskRow]:
    """All rows of a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: no rows, or a row that is not one of the form above; the sentence names the file and the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text. Give a file of task rows, one JSON object a line.") from error
    # not splitlines: JSON strings may hold characters that it takes for line ends
    numbered = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not numbered:
        raise ValueError(f"{path} is empty. Give a file of task rows, one JSON object a line.")
    return [_row(line, f"{path}, line {number}") for number, line in numbered]


def write_tasks(rows: Iterable[TaskRow], path: str | Path) -> None:
    """Write rows so that read_tasks reads them back."""
    lines = [json.dumps({"task_id": f"task{row.task_id}", "texts": row.text}, ensure_ascii=False) for row in rows]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(line: str, where: str) -> TaskRow:
    try:
        given = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{where}: this is not JSON ({error}). One JSON object a line is needed.") from error
    if not isinstance(given, dict) or not all(isinstance(given.get(key), str) for key in ("task_id", "texts")):
        raise ValueError(f'{where}: the row needs the texts "task_id" and "texts".')
    named = re.fullmatch(r"task(\d{1,9})", given["task_id"])
    if named is None or int(named[1]) not in RULES:
        raise ValueError(f"{where}: the task id is {quoted(given['task_id'])}; task0 to task{max(RULES)} are known.")
    if _EMPTY_BRACKETS.search(given["texts"]):
        raise ValueError(f"{where}: a pair of brackets holds no answer. Put the answer's words between them.")
    if not BRACKETED.search(given["texts"]):
        raise ValueError(f"{where}: no answer stands in [ brackets ], so there is nothing to score.")
    return TaskRow(int(named[1]), tuple(given["texts"].strip("\n").split("\n")))
