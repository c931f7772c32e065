"""What each character of a task row is: a person, a thing, the question, the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator

from model.plain_words import one_line
from probes.tasks.rows import BRACKETED, TaskRow, candidates, facts, items, plain
from probes.tasks.rules import Rule

FRAME, STATEMENT, QUESTION, ANSWER, PERSON = "frame", "statement", "question", "answer", "person"
OBJECTS = {"thing": "thing", "tool": "capability", "city": "city", "adjective": "quality", "time": "time"}
"""Topic -> the role of the word that a statement says of a person (a capability: a thing that does something)."""

Span = tuple[int, int, str]


def roles(row: TaskRow) -> list[Span]:
    """(start, end, role) of consecutive stretches of row.plain_text, together all of it.

    Roles: person, and one of OBJECTS, in the statements; the rest of these is "statement"; question; answer (of the
    demonstrations too); frame (what separates lines and parts).
    """
    spans: list[Span] = [(0, 1, FRAME)]
    offset = 1
    for line in row.lines:
        try:
            found = list(_filled(sorted(_line(row.rule, line)), len(plain(line))))
        except ValueError as error:
            raise ValueError(
                f"This line is not of the form that task{row.task_id} has ({one_line(line, 120)!r}), so its words have "
                "no roles. Give a row of the published form."
            ) from error
        spans += [(start + offset, end + offset, role) for start, end, role in found]
        offset += len(plain(line)) + 1
        spans.append((offset - 1, offset, FRAME))
    return spans


def _line(rule: Rule, bracketed: str) -> Iterator[Span]:
    line = plain(bracketed)
    question = _question_start(rule, line)
    answer = _answer(rule, bracketed)
    yield from _words(rule, line, question)
    if answer is None:
        yield question, len(line), QUESTION
        return
    yield question, answer[0], QUESTION
    yield *answer, ANSWER
    if answer[1] < len(line):
        yield answer[1], len(line), FRAME


def _question_start(rule: Rule, line: str) -> int:
    mark = ". Which is " if rule.form == "odd one out" else ">. "
    place = line.find(mark)
    return len(line) if place < 0 else place + (2 if mark.startswith(".") else 3)


def _words(rule: Rule, line: str, question: int) -> Iterator[Span]:
    """Statements, with the persons and words that they are about."""
    kind, start = OBJECTS[rule.topic], 0
    if rule.form == "odd one out":
        named = [_place(item, line, question) for item in _in_order(rule, line, question)]
        about = [(*span, kind) for span in named]
    else:
        about = [
            (*span, role)
            for fact in facts(rule, line)
            for span, role in ((fact.span, PERSON), (fact.object_span, kind))
        ]
    for first, last, role in sorted(about):
        if start < first:
            yield start, first, STATEMENT
        yield first, last, role
        start = last
    if start < question:
        yield start, question, STATEMENT


def _in_order(rule: Rule, line: str, question: int) -> list[tuple[str, int]]:
    """Each listed word, and where the search for it begins: the same word may stand there twice."""
    found, start = [], len("There are ")
    for item in items(rule, line):
        found.append((item, start))
        start = line.lower().index(item.lower(), start, question) + len(item)
    return found


def _place(item: tuple[str, int], line: str, question: int) -> tuple[int, int]:
    word, start = item
    first = line.lower().index(word.lower(), start, question)
    return first, first + len(word)


def _answer(rule: Rule, bracketed: str) -> tuple[int, int] | None:
    """Where the answer stands in the plain line: as bracketed, or in a demonstration the candidate at its end."""
    match = BRACKETED.search(bracketed)
    if match:
        return match.start(), match.start() + len(match[1])
    line = bracketed.rstrip()
    ends = [one for one in candidates(rule, line) if re.search(rf"(?<!\w){re.escape(one)}$", line)]
    return (len(line) - len(max(ends, key=len)), len(line)) if ends else None


def _filled(spans: list[Span], length: int) -> Iterator[Span]:
    """The spans, and frame between them; a ValueError where two overlap or one ends outside."""
    start = 0
    for first, last, role in spans:
        if not start <= first <= last <= length:
            raise ValueError(f"{role} at {first} to {last}")
        if start < first:
            yield start, first, FRAME
        if first < last:
            yield first, last, role
        start = last
    if start < length:
        yield start, length, FRAME
