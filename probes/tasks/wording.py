"""How a line is said: the statements, the question, the articles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from probes.tasks import lexicon, words
from probes.tasks.rules import Rule

LISTS = {"thing": words.KINDS, "tool": words.USES, "city": words.CITIES}
"""Topic -> label -> words as listed, with their marks."""
_MARKED = {
    lexicon.bare(thing): thing for topic in ("thing", "tool") for group in LISTS[topic].values() for thing in group
}


def statements(rule: Rule, stated: Iterable[tuple[str, str]]) -> str:
    """The (person, word) pairs as the opening of a line: "< Rose has a rifle. ... >."."""
    return f"< {' '.join(sentence(rule, *pair) for pair in stated)} >."


def question(rule: Rule, verbs: tuple[str, str], person: str, word: str) -> str:
    """What the rule asks about this person, or ("who") about this word's label; {} stands for the answer.

    Args:
        verbs: the (negated, plain) forms of one of rule.verbs.
        word: gives the kind of time its name ("the month just before") where a person is asked about.
    """
    verb, link = verbs[0 if "lacks" in rule.form else 1], _link(rule, word)
    if rule.asks_who:
        return f"Who {verb} {link}{rule.labelling.of(word)}? {{}}"
    return f"{person} {verb} {link}{{}}"


def sentence(rule: Rule, person: str, word: str) -> str:
    """One statement in the rule's wording: "Rose has a rifle.", "The rifle is Rose's."."""
    if rule.topic == "city":
        return f"{word} attracts {person}." if rule.inverted else f"{person} likes {word}."
    if rule.topic == "adjective":
        return f"{word.capitalize()} {person}." if rule.inverted else f"{person} is {word}."
    if rule.topic == "time":
        when = f"{words.PREPOSITIONS[lexicon.UNIT_OF[word]]} {word}"
        return f"{when[0].upper()}{when[1:]} arrived {person}." if rule.inverted else f"{person} arrived {when}."
    if rule.inverted:
        return f"The {word} {'are' if word in lexicon.ARE else 'is'} {person}'s."
    return f"{person} has {_named(rule, word)}."


def _named(rule: Rule, word: str) -> str:
    return lexicon.with_article(_MARKED[word]) if rule.topic in ("thing", "tool") else word


def _link(rule: Rule, word: str) -> str:
    return rule.labelling.link.format(unit=lexicon.UNIT_OF.get(word, ""))


def odd_text(rule: Rule, listed: Sequence[str], usual: str, odd: str) -> str:
    """The line of an odd-one-out rule, with {} for its answer."""
    question = "Which is different?" if rule.inverted else f"Which is not {usual}?"
    link = _link(rule, odd) or ("The " if rule.topic in ("thing", "tool") else "")
    named = ", ".join(_named(rule, word) for word in listed)
    return f"There are {named}. {question} {link[:1].upper()}{link[1:]}{{}}"
