"""Matched rows for patching: the same content in two wordings, and one answer changed by a swap."""

from __future__ import annotations

import re
from typing import Any

from probes.tasks.generator import generate
from probes.tasks.rows import BRACKETED, TaskRow, candidates, facts, items, plain
from probes.tasks.rules import Rule, rule_of
from probes.tasks.wording import odd_text


def paired_rows(task_id: int, rows: int = 1, seed: int = 0, split: str = "train") -> list[tuple[TaskRow, TaskRow]]:
    """Rows of an even rule, each with the same content in the wording of the odd one; answers are equal line by line.

    In the published rows this holds for the pairs (0, 1) to (68, 69); here for (70, 71) and (72, 73) too.
    """
    rule_of(task_id)
    if task_id % 2:
        raise ValueError(f"Task {task_id} is the second wording of task {task_id - 1}. Give the even id.")
    return list(zip(*(generate([one], rows, seed, split) for one in (task_id, task_id + 1)), strict=True))


def corrupted(row: TaskRow, line: int = -1, tokenizer: Any = None) -> TaskRow:
    """The row with another right answer on one line: two of the line's names (or its two words) are swapped.

    The wording stays, and so does every other line. With a tokenizer only a swap that leaves the number of tokens of
    every word of the text as it was is taken, so each position of the two rows means the same.

    Args:
        line: index among the row's lines; it must have an answer in brackets. -1 = the last.
    Raises:
        ValueError: the line has no answer, cannot be parsed with our words, or has no swap of equal length.
    """
    if not -len(row.lines) <= line < len(row.lines) or not BRACKETED.search(row.lines[line]):
        raise ValueError(f"Line {line} of this task{row.task_id} row has no bracketed answer. Choose one that has.")
    place = line % len(row.lines)
    make = _odd_swaps if row.rule.form == "odd one out" else _name_swaps
    for changed in make(row.rule, row.lines[place]):
        new = TaskRow(row.task_id, (*row.lines[:place], changed, *row.lines[place + 1 :]))
        if _words_of_tokens(row.plain_text, tokenizer) == _words_of_tokens(new.plain_text, tokenizer):
            return new
    raise ValueError(
        f"No swap on {row.lines[place]!r} keeps the tokens of every word in place. Choose another line or another row."
    )


def _name_swaps(rule: Rule, line: str) -> list[str]:
    """The line with the answer's fact under another name, for each fact that may trade names with it."""
    stated, answer = facts(rule, line), BRACKETED.search(line)
    assert answer is not None
    if len(stated) != 3:
        return []
    given = [fact.subject if rule.asks_who else rule.labelling.of(fact.object) for fact in stated]
    if given.count(answer[1]) != 1:
        return []
    right = given.index(answer[1])
    swapped = []
    for other in range(3):
        new = stated[other].subject if rule.asks_who else given[other]
        if other != right and new is not None:
            text = _exchange(line, stated[right].span, stated[other].span)
            swapped.append(BRACKETED.sub(f"[ {new} ]", text))
    return swapped


def _exchange(text: str, one: tuple[int, int], other: tuple[int, int]) -> str:
    (a, b), (c, d) = sorted((one, other))
    return text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]


def _odd_swaps(rule: Rule, line: str) -> list[str]:
    """The line with its two words exchanged: what stood once stands twice."""
    listed = items(rule, plain(line))
    odd = min(listed, key=listed.count)
    usual = max(listed, key=listed.count)
    label = rule.labelling.of(usual)
    if len(candidates(rule, plain(line))) != 2 or label is None:
        return []
    turned = [usual if word == odd else odd for word in listed]
    return [odd_text(rule, turned, odd, usual).format(f"[ {label} ]")]


def _words_of_tokens(text: str, tokenizer: Any) -> list[int]:
    """For each token the word it holds characters of (-1: space only); without a tokenizer each word is a token."""
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    offsets = spans
    if tokenizer is not None:
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    # a token of only the space before a word is told apart: no answer holds it, so it moves the answer by one
    return [next((i for i, (a, b) in enumerate(spans) if start < b and end > a), -1) for start, end in offsets]
