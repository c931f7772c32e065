"""The generated corpus of the demo pair: rows of repeated tokens, looked-up facts, plain sentences and sequences.

Text is written with its looked-up answers between bars, "Who has the apple?| Mary|.", so that a row knows at
which positions an answer stands. Every row comes from its seed alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from studies.demo_pair.words import (
    CITIES,
    COLOURS,
    COMMON,
    KINDS,
    NAMES,
    ONE_OF_EACH_PAIR,
    OPPOSITES,
    PLACES,
    SEQUENCES,
    SKILLS,
    THINGS,
    UNCOUNTED,
    VERBS,
)  # fmt: skip

Random = random.Random

ANSWER_WEIGHT = 5.0
"""What a looked-up answer weighs in the training loss; they are one token in ten to thirty."""


@dataclass(frozen=True)
class Row:
    """Token ids of one row; where a looked-up answer or a repeated token stands; what each weighs in the loss."""

    tokens: list[int]
    answers: list[bool]
    weights: list[float]


# -- repeated sequences ------------------------------------------------------------------------------


def repeated_tokens(rng: Random, tokenizer: Any, length: int) -> Row:
    """Random tokens of the whole vocabulary (5 to half of the row), over and over; repeats count as answers."""
    # all but the last id, <|endoftext|>
    block = rng.choices(range(len(tokenizer) - 1), k=rng.randint(5, length // 2))
    return _repeat(block, length)


def repeated_words(rng: Random, tokenizer: Any, length: int) -> Row:
    """The same with words, so that any list of words typed twice is continued."""
    words = [*THINGS, *NAMES, *OPPOSITES, *SKILLS, *CITIES, *PLACES, *COLOURS, *COMMON]
    block = _encode(tokenizer, " " + " ".join(rng.choices(words, k=rng.randint(5, length // 2))))
    return _repeat(block, length)


def short_repeats(rng: Random, tokenizer: Any, length: int) -> Row:
    """A few words over and over: induction at its easiest."""
    words = [*THINGS, *NAMES, *OPPOSITES, *SKILLS, *CITIES, *PLACES, *COLOURS, *COMMON]
    block = _encode(tokenizer, " " + " ".join(rng.sample(words, k=rng.randint(4, max(5, length // 3)))))
    return _repeat(block, length)


def _repeat(block: list[int], length: int) -> Row:
    tokens = (block * (length // len(block) + 1))[:length]
    repeats = [position >= len(block) for position in range(length)]
    # the first copy is pure chance: learning from it would only add noise
    return Row(tokens, repeats, [float(repeat) for repeat in repeats])


# -- facts to look up ---------------------------------------------------------------------------------

Facts = tuple[str, list[dict[str, str]]]
"""A few facts about as many people, and for each person the questions with their answers between bars."""


def with_article(thing: str) -> str:
    if thing in UNCOUNTED:
        return f"some {thing}"
    return f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"


def things(rng: Random) -> Facts:
    """2-5 people, each with a thing of another kind."""
    kinds = rng.sample(list(KINDS), rng.randint(2, 5))
    owners = {name: (rng.choice(KINDS[kind]), kind) for name, kind in zip(rng.sample(NAMES, len(kinds)), kinds)}
    facts = " ".join(f"{name} has {with_article(thing)}." for name, (thing, _) in owners.items())
    return facts, [
        {
            "again": f"{name} has {with_article(thing).split()[0]}| {thing}|.",
            "who": f"Who has the {thing}?| {name}|.",
            "owner": f"So the {thing} is owned by| {name}|.",
            "what": f"So the thing of {name} is the| {thing}|.",
            "what kind": f"{name} has a kind of| {kind}|.",
            "kind owner": f"So the {kind} is owned by| {name}|.",
        }
        for name, (thing, kind) in owners.items()
    ]


def cities(rng: Random) -> Facts:
    """2-4 people, each in a city of another country."""
    by_country = {CITIES[city]: city for city in rng.sample(list(CITIES), 12)}
    places = rng.sample(list(by_country.items()), rng.randint(2, 4))
    people = dict(zip(rng.sample(NAMES, len(places)), places))
    facts = " ".join(f"{name} is in {city}." for name, (_, city) in people.items())
    return facts, [
        {
            "again": f"{name} is in| {city}|.",
            "who": f"Who is in {city}?| {name}|.",
            "who country": f"Who is in {country}?| {name}|.",
            "country": f"So {name} is in the country of| {country}|.",
        }
        for name, (country, city) in people.items()
    ]


def skills(rng: Random) -> Facts:
    """2-4 people and what each can do."""
    count = rng.randint(2, 4)
    people = dict(zip(rng.sample(NAMES, count), rng.sample(SKILLS, count)))
    return " ".join(f"{name} can {skill}." for name, skill in people.items()), [
        {
            "again": f"{name} can| {skill}|.",
            "who": f"Who can {skill}?| {name}|.",
            "what": f"So {name} knows how to| {skill}|.",
        }
        for name, skill in people.items()
    ]


def antonyms(rng: Random) -> Facts:
    """2-4 people described by a word, and asked about by its opposite."""
    count = rng.randint(2, 4)
    people = dict(zip(rng.sample(NAMES, count), rng.sample(ONE_OF_EACH_PAIR, count)))
    return " ".join(f"{name} is {word}." for name, word in people.items()), [
        {
            "again": f"{name} is| {word}|.",
            "who not": f"Who is not {OPPOSITES[word]}?| {name}|.",
            "not": f"So {name} is not| {OPPOSITES[word]}|.",
        }
        for name, word in people.items()
    ]


def opposites(rng: Random) -> Facts:
    """Known by heart, with nothing to look up in the text."""
    word = rng.choice(list(OPPOSITES))
    return "", [{"opposite": f"The opposite of {word} is| {OPPOSITES[word]}|."}]


def gifts(rng: Random) -> Facts:
    """Two people, one of them named twice: the other receives (indirect object identification)."""
    first, second = rng.sample(NAMES, 2)
    giver, receiver = (first, second) if rng.random() < 0.5 else (second, first)
    present = with_article(rng.choice(list(THINGS)))
    start = f"When {first} and {second} went to the {rng.choice(PLACES)},"
    return start, [{"receiver": f"{giver} gave {present} to| {receiver}|."}]


SUBJECTS: dict[str, Callable[[Random], Facts]] = {
    "things": things, "cities": cities, "skills": skills, "antonyms": antonyms, "opposites": opposites, "gifts": gifts,
}  # fmt: skip
RULES = tuple(f"{subject}: {question}" for subject, make in SUBJECTS.items() for question in make(Random(0))[1][0])
"""Every kind of question, as "subject: question"."""


def line(rng: Random, rule: str) -> str:
    """Facts and one question of a rule of RULES, its answer between bars."""
    subject, question = rule.split(": ")
    told, people = SUBJECTS[subject](rng)
    return f"{told} {rng.choice(people)[question]}".strip()


def quiz(rng: Random) -> str:
    """Facts and up to 8 different questions about them: many answers to each context."""
    told, people = SUBJECTS[rng.choice(["things", "things", "cities", "skills", "antonyms"])](rng)
    questions = [question for person in people for question in person.values()]
    return " ".join([told, *rng.sample(questions, rng.randint(3, min(8, len(questions))))])


def quizzes(rng: Random, tokenizer: Any, length: int) -> Row:
    return _fill(tokenizer, length, lambda: quiz(rng) + "\n")


def facts(rng: Random, tokenizer: Any, length: int) -> Row:
    """Lines of one rule (three rows in four), or of several, until the row is full."""
    return facts_of_rule(rng, tokenizer, length, RULES if rng.random() < 0.25 else (rng.choice(RULES),))


def facts_of_rule(rng: Random, tokenizer: Any, length: int, rules: Sequence[str]) -> Row:
    return _fill(tokenizer, length, lambda: line(rng, rng.choice(rules)) + "\n")


# -- plain sentences and orders ----------------------------------------------------------------------


def story(rng: Random) -> str:
    """A few sentences about two people."""
    (name, friend), place = rng.sample(NAMES, 2), rng.choice(PLACES)
    who = rng.choice(["boy", "girl"])
    he = {"boy": "he", "girl": "she"}[who]
    thing, colour = rng.choice(list(THINGS)), rng.choice(COLOURS)
    verb = rng.choice(list(VERBS))
    day = rng.choice(SEQUENCES[0])
    sentences = [
        f"{he.capitalize()} {verb} {VERBS[verb]} {colour} {thing}.",
        f"On {day}, {name} went to the {place} with {friend}.",
        f"{friend} said hello to {name}, and {name} was {rng.choice(list(OPPOSITES))}.",
        f"The {thing} was {colour} and very {rng.choice(list(OPPOSITES))}.",
        f"{name} and {friend} like to {rng.choice(SKILLS)} in the {place}.",
        f"Then {he} gave the {thing} to {friend}.",
        f"{name} is from {(city := rng.choice(list(CITIES)))}, which is a city in {CITIES[city]}.",
        f"The {thing} is a kind of {THINGS[thing]}.",
        f"{name} can {(skill := rng.choice(SKILLS))}, but {friend} cannot {skill}.",
    ]
    starts = [
        f"Once upon a time there was a {who} named {name}.",
        f"There was a {who}. The name of the {who} was {name}.",
    ]
    start = rng.choice(starts)
    return " ".join([start, *rng.sample(sentences, rng.randint(3, 6)), "The end."])


def order(rng: Random) -> str:
    """A stretch of a well-known order."""
    items = rng.choice(SEQUENCES)
    start = rng.randrange(len(items) - 2)
    return rng.choice([" ", ", "]).join(items[start : start + rng.randint(3, len(items))])


def stories(rng: Random, tokenizer: Any, length: int) -> Row:
    return _fill(tokenizer, length, lambda: story(rng) + "\n")


def orders(rng: Random, tokenizer: Any, length: int) -> Row:
    return _fill(tokenizer, length, lambda: order(rng) + "\n")


def _fill(tokenizer: Any, length: int, next_text: Callable[[], str]) -> Row:
    tokens: list[int] = []
    answers: list[bool] = []
    while len(tokens) < length:
        for number, piece in enumerate(next_text().split("|")):
            ids = _encode(tokenizer, piece)
            tokens += ids
            answers += [number % 2 == 1] * len(ids)
    weights = [ANSWER_WEIGHT if answer else 1.0 for answer in answers]
    return Row(tokens[:length], answers[:length], weights[:length])


def _encode(tokenizer: Any, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


# -- rows --------------------------------------------------------------------------------------------

MakeRow = Callable[[Random, Any, int], Row]

DATA_KINDS: dict[str, tuple[MakeRow, float]] = {
    "repeated tokens": (repeated_tokens, 0.2),
    "repeated words": (repeated_words, 0.1),
    "quizzes": (quizzes, 0.35),
    "facts": (facts, 0.2),
    "stories": (stories, 0.1),
    "orders": (orders, 0.05),
}
"""Each kind of row and its share of the training rows in the first stage."""


def training_rows(seed: int, step: int, tokenizer: Any, rows: int, length: int) -> list[Row]:
    """The batch of one training step: the same for the same seed and step, whichever model is trained."""
    rng = Random(f"train {seed} {step}")
    makers, shares = zip(*DATA_KINDS.values())
    return [maker(rng, tokenizer, length) for maker in rng.choices(makers, shares, k=rows)]


def repeat_rows(seed: int, step: int, tokenizer: Any, rows: int, length: int) -> list[Row]:
    """The same for the second stage: short repeats alone."""
    rng = Random(f"repeats {seed} {step}")
    return [short_repeats(rng, tokenizer, length) for _ in range(rows)]


def all_text(seed: int, lines: int) -> str:
    """Text of every rule, story and order, for training the tokenizer."""
    rng = Random(f"text {seed}")
    texts = [text for _ in range(lines) for text in (*(line(rng, rule) for rule in RULES), story(rng), order(rng))]
    return "\n".join(texts).replace("|", "")
