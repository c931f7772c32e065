"""The rows that the pair is trained on: in-context tasks, exercises for them, and repeats of random tokens.

A row, its token ids and what the prediction of each weighs in the loss, follows from the seed, the step and the row's
number in the step alone. All rows of one step have one length. Every statement about a person takes its words from
the train split of the tasks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from probes.tasks import RULES, Rule, TaskRow, generate, lexicon, questions_about
from probes.tasks.rows import BRACKETED, facts, plain
from probes.tasks.wording import sentence, statements

ANSWER_WEIGHT, OTHER_WEIGHT, REPEAT_WEIGHT = 1.0, 0.05, 0.1
"""What a token weighs in the loss: an answer, all other tokens of a text (most of them names and things that nothing
foretells), the repeat of a random token."""
MARK = "|"
"""Stands before and after each answer while a text is being made."""

Random = random.Random
Row = tuple[list[int], list[float]]


class Words(NamedTuple):
    """Which words statements take: a split and the share of the lists, as probes.tasks.generate has them."""

    split: str
    vocabulary: float


@dataclass(frozen=True)
class Stage:
    """Part of the training.

    Fields:
        until: first step that no longer belongs to it; None: it is the last.
        vocabulary: share of the words that statements are made from, see probes.tasks.generate.
        shares: kind of row -> its share of the rows.
        lengths: tokens in the rows of successive steps, taken in turn.
    """

    until: int | None
    vocabulary: float
    shares: dict[str, float]
    lengths: tuple[int, ...]


FIRST_SHARES = {"restated": 0.85, "meanings": 0.05, "repeated": 0.1}
SHARES = {"task": 0.4, "quiz": 0.25, "restated": 0.15, "meanings": 0.1, "repeated": 0.1}
SHORT, LENGTHS = (48, 32, 64, 48), (48, 32, 64, 48, 96, 32, 192, 48)
"""In short rows there is little to confuse what is looked for with; the longest holds a whole task row."""

STAGES = (
    Stage(1200, 0.12, FIRST_SHARES, (32,)),
    Stage(2000, 0.12, SHARES, SHORT),
    Stage(2200, 0.3, SHARES, LENGTHS),
    Stage(2400, 0.6, SHARES, LENGTHS),
    Stage(None, 1.0, SHARES, LENGTHS),
)
"""First of all a model learns to look up who goes with what, from few words and with little to distract it; then to
answer questions about that; then more words."""


def rows(seed: int, step: int, number: int, tokenizer: Any, length: int) -> Row:
    """One row of the training, at most `length` tokens."""
    stage = next(stage for stage in STAGES if stage.until is None or step < stage.until)
    rng = Random(f"{seed}/{step}/{number}")
    (kind,) = rng.choices(list(stage.shares), list(stage.shares.values()))
    return ROWS[kind](
        rng, Words("train", stage.vocabulary), tokenizer, min(length, stage.lengths[step % len(stage.lengths)])
    )


def held_out_rows(seed: int, step: int, number: int, tokenizer: Any, length: int) -> Row:
    """Whole task rows of the held-out split, for evaluation."""
    return _filled(_task)(Random(f"{seed}/{step}/{number}"), Words("held_out", 1.0), tokenizer, length)


# -- texts, their answers marked -------------------------------------------------------------------------


def _task(rng: Random, source: Words) -> str:
    row = _row(rng, source, rng.choice(list(RULES.values())), lines=8)
    return BRACKETED.sub(rf"{MARK}\1{MARK}", row.text)


def _quiz(rng: Random, source: Words) -> str:
    rule, stated = _stated(rng, source)
    asked = questions_about(rule, stated)
    chosen = rng.sample(asked, min(QUESTIONS, len(asked)))
    told = " ".join(found.text.format(f"{MARK}{found.answer}{MARK}") + "." for found in chosen)
    return f"{statements(rule, stated)} {told}\n"


def _restated(rng: Random, source: Words) -> str:
    rule, stated = _stated(rng, source)
    text = statements(rule, stated)
    # rules of even id have the forward wording; the next has the other
    for again in rng.sample([rule.task_id // 2 * 2, rule.task_id // 2 * 2 + 1], 2):
        for person, word in rng.sample(stated, len(stated)):
            text += " " + _restatement(RULES[again], person, word, stated)
    return text + "\n"


def _meaning(rng: Random, source: Words) -> str:
    del source  # what words mean is asked of all of them
    kind, told = rng.choice(list(MEANINGS.items()))
    word = rng.choice(list(told))
    if kind == "time":
        step = rng.choice((1, -1))
        near = lexicon.moved(word, step)
        if near is None:
            return ""
        return f" {word} is the {lexicon.UNIT_OF[word]} just {'before' if step == 1 else 'after'} {MARK}{near}{MARK}."
    return f" {kind.format(word)} {MARK}{told[word]}{MARK}."


QUESTIONS = 5
"""Asked about each line of a quiz, at most."""
MEANINGS = {
    "The {} is a kind of": lexicon.KIND_OF,
    "The {} is the thing that can": lexicon.USE_OF,
    "{} is the city in": lexicon.COUNTRY_OF,
    "{} is the opposite of": lexicon.OPPOSITE_OF,
    "time": lexicon.UNIT_OF,
}


# -- parts -----------------------------------------------------------------------------------------------


def _row(rng: Random, source: Words, rule: Rule, lines: int) -> TaskRow:
    (row,) = generate([rule.task_id], 1, 0, source.split, rng.randrange(2**40), lines, 0, source.vocabulary)
    return row


def _stated(rng: Random, source: Words) -> tuple[Rule, list[tuple[str, str]]]:
    """A rule of persons and the (person, word) pairs of one of its lines."""
    rule = rng.choice([rule for rule in RULES.values() if rule.form != "odd one out"])
    (line,) = _row(rng, source, rule, lines=1).lines
    return rule, [(fact.subject, fact.object) for fact in facts(rule, plain(line))]


def _restatement(rule: Rule, person: str, word: str, stated: list[tuple[str, str]]) -> str:
    """The statement again; what comes second, the word or the person, is an answer if only it can stand there."""
    said = sentence(rule, person, word)
    answer = person if rule.inverted else word
    fitting = {p if rule.inverted else w for p, w in stated if (w == word if rule.inverted else p == person)}
    if len(fitting) > 1:
        return said
    before, after = said.rsplit(answer, 1)
    return f"{before}{MARK}{answer}{MARK}{after}"


def _filled(make: Callable[[Random, Words], str]) -> Callable[[Random, Words, Any, int], Row]:
    """Rows of text after text until they are full, cut at their end."""

    def row(rng: Random, source: Words, tokenizer: Any, length: int) -> Row:
        ids: list[int] = []
        weights: list[float] = []
        while len(ids) < length:
            more, weighed = _encoded(make(rng, source), tokenizer)
            ids, weights = ids + more, weights + weighed
        return ids[:length], weights[:length]

    return row


def _encoded(marked: str, tokenizer: Any) -> Row:
    """Token ids and weights of a text; a token is of an answer when it holds at least one of its characters."""
    pieces = marked.split(MARK)
    answers: list[tuple[int, int]] = []
    end = 0
    for number, piece in enumerate(pieces):
        end += len(piece)
        if number % 2:
            answers.append((end - len(piece), end))
    encoded = tokenizer("".join(pieces), add_special_tokens=False, return_offsets_mapping=True)
    weights = [
        ANSWER_WEIGHT if any(start < b and stop > a for a, b in answers) else OTHER_WEIGHT
        for start, stop in encoded["offset_mapping"]
    ]
    return list(encoded["input_ids"]), weights


def _repeated(rng: Random, source: Words, tokenizer: Any, length: int) -> Row:
    """Random tokens (4 to half a row) over and over; from the second time on they can be known."""
    del source  # any token but the last, which ends texts
    block = rng.choices(range(len(tokenizer) - 1), k=rng.randint(4, max(5, length // 2)))
    weights = [OTHER_WEIGHT] * len(block) + [REPEAT_WEIGHT] * length
    return (block * -(-length // len(block)))[:length], weights[:length]


ROWS: dict[str, Callable[[Random, Words, Any, int], Row]] = {
    "task": _filled(_task),
    "quiz": _filled(_quiz),
    "restated": _filled(_restated),
    "meanings": _filled(_meaning),
    "repeated": _repeated,
}
"""Kind of row -> how it is made."""
