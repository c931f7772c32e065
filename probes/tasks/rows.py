"""A row of the in-context tasks: eight lines of one rule, the answers of the last six in brackets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from probes.tasks import lexicon
from probes.tasks.rules import Rule, rule_of

BRACKETED = re.compile(r"\[ (\S(?:.*?\S)?) \]")

_HAS = (
    r"(?P<subject>\S+) has (?P<object>.+?)\.(?= |$)",
    r"(?:The )?(?P<object>\S[^.]*?) (?:is|are) (?P<subject>\S+)'s\.",
)
_FACTS = {
    "thing": _HAS,
    "tool": _HAS,
    "city": (r"(?P<subject>\S+) likes (?P<object>.+?)\.(?= |$)", r"(?P<object>\S.*?) attracts (?P<subject>\S+)\."),
    "adjective": (r"(?P<subject>\S+) is (?P<object>\S+)\.", r"(?P<object>\S+) (?P<subject>\S+)\."),
    "time": (
        r"(?P<subject>\S+) arrived (?:in|on|at) (?P<object>.+?)\.(?= |$)",
        r"(?:In|On|At) (?P<object>.+?) arrived (?P<subject>\S+)\.",
    ),
}
"""Topic -> the sentence of one fact, forward and inverted."""


@dataclass(frozen=True)
class Fact:
    """subject has object.

    span, object_span: of the subject's name in the line, and of the object without its article. end: of its sentence,
    the full stop included.
    """

    subject: str
    object: str
    span: tuple[int, int]
    object_span: tuple[int, int]
    end: int


@dataclass(frozen=True)
class Answer:
    """One scored answer: text = plain_text[start:end].

    candidates: what could be answered, for the chance level. line: the number of its line.
    """

    text: str
    start: int
    end: int
    candidates: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class TaskRow:
    """task_id 0-73 and the lines, answers in `[ brackets ]`."""

    task_id: int
    lines: tuple[str, ...]

    @property
    def rule(self) -> Rule:
        return rule_of(self.task_id)

    @property
    def family(self) -> str:
        return self.rule.family

    @property
    def text(self) -> str:
        """The published form: brackets, and a newline before, between and after the lines."""
        return "\n" + "\n".join(self.lines) + "\n"

    @property
    def plain_text(self) -> str:
        """What a model reads: `[ vehicle ]` has become `vehicle`, as in the demonstrations."""
        return plain(self.text)

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        found, offset = [], 1
        for number, line in enumerate(self.lines):
            match = BRACKETED.search(line)
            if match:
                start = offset + match.start()
                offered = candidates(self.rule, plain(line))
                found.append(Answer(match[1], start, start + len(match[1]), offered, number))
            offset += len(plain(line)) + 1
        return tuple(found)


def plain(text: str) -> str:
    return BRACKETED.sub(r"\1", text)


def facts(rule: Rule, line: str) -> list[Fact]:
    """The statements of a line between its angle brackets, objects as listed in words.py."""
    start, end = line.find("<") + 1, line.find(">")
    pattern = re.compile(_FACTS[rule.topic][rule.inverted])
    return [
        Fact(
            m["subject"],
            listed := _listed_form(rule, m["object"]),
            m.span("subject"),
            (m.end("object") - len(listed), m.end("object")),
            m.end(),
        )
        for m in pattern.finditer(line, start, end)
    ]


def items(rule: Rule, line: str) -> list[str]:
    """The words of an odd-one-out line, without articles."""
    listed = line.removeprefix("There are ").split(". Which is ")[0]
    # a published city has a comma in its own name: Washington, D.C
    return [_listed_form(rule, item) for item in re.split(r", (?!D\.C)", listed)]


def _listed_form(rule: Rule, phrase: str) -> str:
    if rule.topic == "adjective":
        return phrase.lower()
    return lexicon.without_article(phrase) if rule.topic in ("thing", "tool") else phrase.strip()


def candidates(rule: Rule, line: str) -> tuple[str, ...]:
    """What an answer could be, had one only understood which sort of word is asked for.

    "Who" questions: the persons on the line. Others: the labels (kinds, countries, ... or the words themselves) of
    the words on the line; the words themselves where one is not in our lists. Each once.
    """
    if rule.asks_who:
        return tuple(dict.fromkeys(fact.subject for fact in facts(rule, line)))
    listed = items(rule, line) if rule.form == "odd one out" else [fact.object for fact in facts(rule, line)]
    labels = [rule.labelling.of(word) for word in listed]
    known = [label for label in labels if label is not None]
    return tuple(dict.fromkeys(known if len(known) == len(listed) else listed))


def answer_token_mask(row: TaskRow, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids of a row's plain text, and for each token the number of the answer it belongs to (-1: none).

    A token belongs to an answer when it holds at least one of its characters, so a token " vehicle" does, its space
    included. No BOS is added.
    """
    encoded = tokenizer(row.plain_text, add_special_tokens=False, return_offsets_mapping=True)
    owners = [-1] * len(encoded["input_ids"])
    for number, answer in enumerate(row.answers):
        for place, (start, end) in enumerate(encoded["offset_mapping"]):
            if start < answer.end and end > answer.start:
                owners[place] = number
    return list(encoded["input_ids"]), owners
