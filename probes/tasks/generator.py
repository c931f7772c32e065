"""Rows of the 74 rules, made from our own words; a row follows from (seed, split, rule, index) alone."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

from probes.tasks import lexicon, words
from probes.tasks.rows import TaskRow
from probes.tasks.rules import RULES, Rule, check_split, rule_of
from probes.tasks.wording import LISTS, odd_text, question, statements

LINES, DEMONSTRATIONS = 8, 2
HELD_OUT_SHARE = 0.25
"""Share of the (person, word) and (word, word) pairs that only held-out rows use."""

Pair = tuple[str, str]
T = TypeVar("T")


class _Source(NamedTuple):
    """Where the words of a line come from."""

    split: str
    vocabulary: float


def generate(
    rule_ids: Iterable[int] | None = None,
    rows_per_rule: int = 4,
    seed: int = 0,
    split: str = "train",
    first: int = 0,
    lines: int = LINES,
    demonstrations: int = DEMONSTRATIONS,
    vocabulary: float = 1.0,
) -> list[TaskRow]:
    """Rows of the given rules (None: all 74), rows_per_rule of each, in the order given.

    Args:
        split: "train" or "held_out": no pair of words on a line of one stands on a line of the other.
        first: index of the first row: first=4 continues where rows_per_rule=4 ended.
        lines: of a row; the published rows have eight.
        demonstrations: how many of them, the first ones, have no brackets around their answers.
        vocabulary: share of the names, of the kinds, countries, uses and opposites, and of the words of each, that
            rows are made from: the first ones listed, never fewer than a few. Times are always all used.
    Raises:
        ValueError: an unknown rule or split, fewer than one row, no line whose answer is asked for, or a vocabulary
            that is no share.
    """
    check_split(split)
    if rows_per_rule < 1:
        raise ValueError(f"rows_per_rule is {rows_per_rule}; at least 1 is needed.")
    if not 0 <= demonstrations < lines:
        raise ValueError(f"demonstrations={demonstrations} of lines={lines}: at least one line must not be one.")
    if not 0 < vocabulary <= 1:
        raise ValueError(f"vocabulary={vocabulary} is a share: more than 0, at most 1.")
    rules = [rule_of(task_id) for task_id in (sorted(RULES) if rule_ids is None else rule_ids)]
    source = _Source(split, vocabulary)
    indices = range(first, first + rows_per_rule)
    return [_row(rule, seed, source, index, lines, demonstrations) for rule in rules for index in indices]


@lru_cache(2**17)
def split_of(first: str, second: str) -> str:
    """The only split that may use this pair, in whichever order: a fixed function of the two words."""
    digest = hashlib.sha256("|".join(sorted((first, second))).encode()).digest()
    return "held_out" if int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32 else "train"


def _row(rule: Rule, seed: int, source: _Source, index: int, count: int, demonstrations: int) -> TaskRow:
    # both wordings of a rule share their content: the odd id is left out of the key, a text, hashed by sha512
    rng = random.Random(f"{seed}/{source.split}/{rule.task_id // 2}/{index}")
    verbs = rng.choice(rule.verbs) if rule.verbs else ("", "")
    make = _odd_line if rule.form == "odd one out" else _person_line
    lines = [make(rule, rng, source, verbs) for _ in range(count)]
    shown = [line.format(answer) for line, answer in lines[:demonstrations]]
    asked = [line.format(f"[ {answer} ]") for line, answer in lines[demonstrations:]]
    return TaskRow(rule.task_id, tuple(shown + asked))


# -- which words a line takes ------------------------------------------------------------------------------


def _person_line(rule: Rule, rng: random.Random, source: _Source, verbs: Pair) -> tuple[str, str]:
    """A line with {} for its answer, and the answer."""
    stated: list[Pair] | None = None
    while stated is None:
        stated = _stated(rule, rng, source)
    (person, word), *others = stated  # the first is the one whose name or word is the answer
    listed = rng.sample(stated, 3)
    asked = others[0] if "lacks" in rule.form else stated[0]
    answer = person if rule.asks_who else str(rule.labelling.of(word))
    return f"{statements(rule, listed)} {question(rule, verbs, *asked)}", answer


def _stated(rule: Rule, rng: random.Random, source: _Source) -> list[Pair] | None:
    """Three (person, word) pairs of one split, the answer's first; None where no person is left for a word."""
    chosen = _words_of(rule, rng, source)
    # in "lacks" the other two belong to one person
    groups = [chosen[:1], chosen[1:]] if rule.form == "lacks" else [[word] for word in chosen]
    stated: list[Pair] = []
    names = _first(words.NAMES, source.vocabulary, 8)
    for group in groups:
        taken = {person for person, _ in stated}
        free = [name for name in names if name not in taken and all(split_of(name, w) == source.split for w in group)]
        if not free:
            return None
        person = rng.choice(free)
        stated += [(person, word) for word in group]
    return stated


def _words_of(rule: Rule, rng: random.Random, source: _Source) -> list[str]:
    """The answer's word, then the two others. In "who lacks" these two share their label."""
    if rule.form != "who lacks":
        return _distinct(rule, rng, source, 3)
    odd, shared = _distinct(rule, rng, source, 2)
    if rule.topic in ("adjective", "time") or rule.labelling.link == "":
        return [odd, shared, shared]
    group = _groups(rule.topic, source.vocabulary)[str(rule.labelling.of(shared))]
    return [odd, *rng.sample(group, 2)]


def _distinct(rule: Rule, rng: random.Random, source: _Source, count: int) -> list[str]:
    """Words of different groups: kinds, countries, uses, themes; times of one unit instead."""
    if rule.topic == "time":
        series = words.TIMES[rng.choice(list(words.TIMES))]
        return rng.sample(series[1:-1] if rule.form == "odd one out" else series[:-1], count)
    groups = _groups(rule.topic, source.vocabulary)
    return [rng.choice(groups[label]) for label in rng.sample(list(groups), count)]


@lru_cache
def _groups(topic: str, vocabulary: float) -> dict[str, list[str]]:
    """Group -> its words, without marks."""
    if topic == "adjective":
        themes = enumerate(_first(words.ANTONYM_THEMES, vocabulary, 8))
        return {str(i): list(dict.fromkeys(word for pair in theme for word in pair)) for i, theme in themes}
    labels = _first(list(LISTS[topic]), vocabulary, 6)
    return {label: [lexicon.bare(word) for word in _first(LISTS[topic][label], vocabulary, 2)] for label in labels}


def _first(listed: Sequence[T], share: float, least: int) -> Sequence[T]:
    return listed[: max(least, math.ceil(share * len(listed)))]


def _odd_line(rule: Rule, rng: random.Random, source: _Source, _: Pair) -> tuple[str, str]:
    odd, usual = _distinct(rule, rng, source, 2)
    while split_of(odd, usual) != source.split:
        odd, usual = _distinct(rule, rng, source, 2)
    place = rng.randrange(3)
    listed = [odd if i == place else usual for i in range(3)]
    return odd_text(rule, listed, usual, odd), str(rule.labelling.of(odd))
