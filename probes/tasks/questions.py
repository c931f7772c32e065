"""Every question that a few statements answer: several rules asked about the same facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from probes.tasks.rules import RULES, Rule
from probes.tasks.wording import question

Pair = tuple[str, str]


class Question(NamedTuple):
    """text has {} where the answer stands; rule: the one that asks it."""

    text: str
    answer: str
    rule: Rule


def questions_about(rule: Rule, stated: Sequence[Pair]) -> list[Question]:
    """The questions that the rules of this one's topic and wording ask about (person, word) pairs.

    Only those with one right answer are among them, each once for each pair of verbs ("has", "owns"). A person who
    may be asked about occurs in the pairs; what is said of nobody is not asked.

    Raises:
        ValueError: the rule is an odd-one-out rule, whose lines state nothing of persons.
    """
    if rule.form == "odd one out":
        raise ValueError(f"Task {rule.task_id} lists words and states nothing of persons. Give one of tasks 0 to 55.")
    alike = [one for one in RULES.values() if (one.topic, one.wording) == (rule.topic, rule.wording)]
    return [found for one in alike if one.form != "odd one out" for found in _asked(one, stated)]


def _asked(rule: Rule, stated: Sequence[Pair]) -> list[Question]:
    label_of, negated = rule.labelling.of, "lacks" in rule.form
    people = dict.fromkeys(person for person, _ in stated)
    labels = {str(label_of(word)): word for _, word in stated}  # each label with a word that has it
    found = []
    # who: for each label the persons; otherwise for each person the labels
    for asked in labels if rule.asks_who else people:
        if rule.asks_who:
            having = {person for person, word in stated if str(label_of(word)) == asked}
            right, pair = [p for p in people if (p in having) != negated], ("", labels[asked])
        else:
            own = {str(label_of(word)) for person, word in stated if person == asked}
            right, pair = [label for label in labels if (label in own) != negated], (asked, stated[0][1])
        if len(right) == 1:
            found += [Question(question(rule, verbs, *pair), right[0], rule) for verbs in rule.verbs]
    return found
