"""Generated task rows by name, and what other pages take of them: a prompt before an answer, a pair for patching."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from model import HookedDCFormer
from probes.examples import Example, task_examples
from probes.tasks import TaskRow, corrupted, generate
from probes.tasks.generator import DEMONSTRATIONS, LINES

ROWS_KEPT = 256
_NAME = re.compile(r"(\d{1,3})\.(\d{1,9})\.(\d{1,10})\.(train|held_out)\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})")


@dataclass(frozen=True)
class RowName:
    """One line of a generated row: everything that `generate` makes the row from, and the number of the line.

    index: of the row among those of its rule.
    """

    task_id: int
    index: int = 0
    seed: int = 0
    split: str = "held_out"
    lines: int = LINES
    demonstrations: int = DEMONSTRATIONS
    line: int = LINES - 1

    @classmethod
    def read(cls, text: str) -> RowName:
        """A name from what str gives of it, "12.0.3.held_out.8.2.7".

        Raises:
            ValueError: text of another form.
        """
        found = _NAME.fullmatch(text)
        if found is None:
            raise ValueError(
                f"{text!r} names no task row. Seven parts with dots between are needed: rule, row, seed, train or "
                "held_out, lines, demonstrations, line."
            )
        rule, index, seed, split, *rest = found.groups()
        return cls(int(rule), int(index), int(seed), split, *map(int, rest))

    def __str__(self) -> str:
        parts = (self.task_id, self.index, self.seed, self.split, self.lines, self.demonstrations, self.line)
        return ".".join(map(str, parts))

    def row(self) -> TaskRow:
        """The row.

        Raises:
            ValueError: what `generate` refuses, or a line that the row lacks.
        """
        if not 0 <= self.line < self.lines:
            raise ValueError(f"Line {self.line} of a row of {self.lines} lines does not exist. Choose one from 0.")
        return _generated(self)


@lru_cache(ROWS_KEPT)
def _generated(name: RowName) -> TaskRow:
    # every page with a sidebar shows one at every click, and making it takes milliseconds
    options = {"lines": name.lines, "demonstrations": name.demonstrations}
    return generate([name.task_id], 1, name.seed, name.split, name.index, **options)[0]


def prompt_before(row: TaskRow, line: int, tokenizer: Any) -> str:
    """The row's text up to the answer of a line, so that the last token is the one from which it is predicted.

    Raises:
        ValueError: a line whose answer is not asked for.
    """
    answer = next((one for one in row.answers if one.line == line), None)
    if answer is None:
        raise ValueError(f"Line {line} of this row is a demonstration: its answer is not asked for. Choose another.")
    encoded = tokenizer(row.plain_text, add_special_tokens=False, return_offsets_mapping=True)
    # the space before a word mostly belongs to its first token
    first = next(start for start, end in encoded["offset_mapping"] if start < answer.end and end > answer.start)
    return row.plain_text[:first]


class Pair(NamedTuple):
    """A row up to one answer, and the same with another right answer there; token for token in the same places."""

    clean: TaskRow
    corrupted: TaskRow

    @property
    def answers(self) -> tuple[str, str]:
        return self.clean.answers[-1].text, self.corrupted.answers[-1].text


def pair_of(name: RowName, tokenizer: Any) -> Pair:
    """The clean and the corrupted row, both ending with the line.

    Raises:
        ValueError: a line without an answer, or one that no swap of equal length corrupts.
    """
    row = name.row()
    changed = corrupted(row, name.line, tokenizer)
    return Pair(*(TaskRow(one.task_id, one.lines[: name.line + 1]) for one in (row, changed)))


def pair_example(model: HookedDCFormer, name: RowName) -> Example:
    """The clean row's answer as all that counts, its contrast the corrupted row's answer.

    Raises:
        ValueError: what pair_of refuses, or a row longer than the model's context.
    """
    clean, changed = (task_examples(model, [row])[0] for row in pair_of(name, model.tokenizer))
    first = clean.answers.index(clean.answers[-1])
    other = changed.ids[clean.targets[first]]
    contrast = None if other == clean.ids[clean.targets[first]] else other
    rest = (None,) * (len(clean.targets) - first - 1)
    return Example(clean.ids, clean.targets[first:], clean.answers[first:], (contrast, *rest))
