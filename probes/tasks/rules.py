"""The 74 rules of the in-context tasks, as data: what a line states, what it asks, and what the answer is.

A rule has a topic (which words stand on the line), a form (who is asked for, and whether "not") and a label (how the
answer refers to a word: itself, its kind, its country, its use, its opposite, the time next to it).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from probes.tasks import lexicon

FAMILIES = ("person and thing", "person and city", "capability", "antonym", "time just before", "odd one out")
FORMS = ("lacks", "has", "who lacks", "who has")
"""The order of the ids. lacks: "S does not have O"; who has: "Who has O? S"; the other two likewise."""

Label = Callable[[str], str | None]


@dataclass(frozen=True)
class Labelling:
    """How an answer refers to a word. link: the text before it; {unit} is the kind of time."""

    link: str
    of: Label


def _itself(word: str) -> str:
    return word


def _next(word: str) -> str | None:
    return lexicon.moved(word, 1) if word in lexicon.UNIT_OF else None


def _previous(word: str) -> str | None:
    return lexicon.moved(word, -1) if word in lexicon.UNIT_OF else None


ITSELF = Labelling("", _itself)
KIND = Labelling("a kind of ", lexicon.KIND_OF.get)
COUNTRY = Labelling("the city in ", lexicon.COUNTRY_OF.get)
USE = Labelling("the thing that can ", lexicon.USE_OF.get)
OPPOSITE = Labelling("the opposite of ", lexicon.OPPOSITE_OF.get)
BEFORE = Labelling("the {unit} just before ", _next)
AFTER = Labelling("the {unit} just after ", _previous)

HAVE = (("does not have", "has"), ("does not own", "owns"), ("does not possess", "possesses"))
WANT = (
    ("does not want to go to", "wants to go to"),
    ("does not want to visit", "wants to visit"),
    ("does not long for", "longs for"),
    ("does not yearn for", "yearns for"),
)
BE = (("is not", "is"),)
COME = (("did not arrive", "arrived"), ("did not appear", "appeared"), ("did not show up", "showed up"))


@dataclass(frozen=True)
class Rule:
    """One of the 74.

    Fields:
        family: one of FAMILIES.
        wording: "forward" (even ids: S has O; Which is not X?) or "inverted" (odd ids: The O is S's; Which is
            different?).
        topic: the words on the line: thing, city, tool, adjective or time.
        form: one of FORMS, or "odd one out".
        verbs: (negated, plain) forms of the question's verb; a row keeps one of them.
    """

    task_id: int
    family: str
    wording: str
    topic: str
    form: str
    labelling: Labelling
    verbs: tuple[tuple[str, str], ...] = ()

    @property
    def inverted(self) -> bool:
        return self.wording == "inverted"

    @property
    def asks_who(self) -> bool:
        return self.form.startswith("who")


_PERSON_BLOCKS = (
    # first id, family, topic, labelling, verbs
    (0, "person and thing", "thing", KIND, HAVE),
    (8, "person and thing", "thing", ITSELF, HAVE),
    (16, "person and city", "city", COUNTRY, WANT),
    (24, "person and city", "city", ITSELF, WANT),
    (32, "capability", "tool", USE, HAVE),
    (40, "antonym", "adjective", OPPOSITE, BE),
    (48, "time just before", "time", BEFORE, COME),
)
_ODD_BLOCKS = (
    (56, "thing", ITSELF),
    (58, "thing", KIND),
    (60, "city", ITSELF),
    (62, "city", COUNTRY),
    (64, "tool", ITSELF),
    (66, "tool", USE),
    (68, "adjective", OPPOSITE),
    (70, "time", BEFORE),
    (72, "time", AFTER),
)
_WORDINGS = ("forward", "inverted")


def _all_rules() -> dict[int, Rule]:
    rules = [
        Rule(first + 2 * place + odd, family, _WORDINGS[odd], topic, form, labelling, verbs)
        for first, family, topic, labelling, verbs in _PERSON_BLOCKS
        for place, form in enumerate(FORMS)
        for odd in (0, 1)
    ]
    rules += [
        Rule(first + odd, "odd one out", _WORDINGS[odd], topic, "odd one out", labelling)
        for first, topic, labelling in _ODD_BLOCKS
        for odd in (0, 1)
    ]
    return {rule.task_id: rule for rule in rules}


RULES = _all_rules()

HELD_OUT_RULES = (6, 7, 24, 25, 36, 37, 42, 43, 54, 55, 66, 67)
"""Rules to keep out of training: one of each family, both wordings, all four forms and the odd one out among them."""


def rules_for(split: str) -> tuple[int, ...]:
    """Ids of the rules to train on ("train") or of those kept for testing ("held_out")."""
    check_split(split)
    return HELD_OUT_RULES if split == "held_out" else tuple(sorted(set(RULES) - set(HELD_OUT_RULES)))


def check_split(split: str) -> None:
    if split not in ("train", "held_out"):
        raise ValueError(f"There is no split {split!r}. Choose train or held_out.")


def rule_of(task_id: int) -> Rule:
    if task_id not in RULES:
        raise ValueError(f"There is no task {task_id}: the ids run from 0 to {max(RULES)}. Choose one of these.")
    return RULES[task_id]
