"""Files of task rows: probes.tasks.read_tasks, and answers, roles and questions of what it gave."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import strategies as st

from probes.tasks import generate, read_tasks, write_tasks
from probes.tasks.roles import roles
from tests.fuzzing.component import Component
from tests.fuzzing.mutations import VALUES, Draw, Files, harm_bytes, harm_json

FILE = "rows.jsonl"
PIECES = (
    "[",
    "]",
    "[ ]",
    "[ a ]",
    "[ [ b ] ]",
    "<",
    ">",
    ">.",
    ". Which is ",
    "There are ",
    " has a ",
    "'s.",
    "\n",
    "\r",
    "\u2028",
    "? ",
)


def component() -> Component:
    return Component("tasks", valid, harm, read)


def valid() -> dict[str, Files]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        write_tasks(generate([0, 11, 17, 33, 45, 49, 57, 61, 69, 73], 1), path)
        return {"ten rules": {FILE: path.read_bytes()}}


def harm(draw: Draw, files: Files) -> str:
    kind = draw(st.sampled_from(["bytes", "row", "row", "text", "text"]))
    if kind == "bytes":
        files[FILE], told = harm_bytes(draw, files[FILE])
        return told
    lines = files[FILE].split(b"\n")
    number = draw(st.integers(0, len(lines) - 2))
    if kind == "row":
        lines[number], told = harm_json(
            draw, json.loads(lines[number]), VALUES | st.sampled_from(["task99", "task٣", "task-1"])
        )
    else:
        lines[number], told = _harmed_text(draw, json.loads(lines[number]))
    files[FILE] = b"\n".join(lines)
    return f"row {number}: {told}"


def _harmed_text(draw: Draw, row: dict[str, str]) -> tuple[bytes, str]:
    """Pieces that the grammar of rows knows, where they do not belong; the same row for another rule."""
    text = row["texts"]
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + draw(st.sampled_from(PIECES)) * draw(st.sampled_from([1, 1, 2, 300]))
            + text[at + draw(st.sampled_from([0, 0, 1, 40])) :]
        )
    changed = {"task_id": draw(st.sampled_from([row["task_id"], f"task{draw(st.integers(0, 73))}"])), "texts": text}
    return json.dumps(changed).encode(), "strange text"


def read(folder: Path) -> None:
    for row in read_tasks(folder / FILE):
        assert all(row.plain_text[one.start : one.end] == one.text for one in row.answers)
        assert "".join(row.plain_text[start:end] for start, end, _ in roles(row)) == row.plain_text
