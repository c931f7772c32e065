"""Sources of training rows. A row follows from the seed, the step and its number in the step alone.

So a resumed run sees the rows that it would have seen, and several processes see the rows of one.
A new kind of source is one class here and one line in SOURCES.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from model.plain_words import quoted
from model.training.fields import named_function, refuse_unknown, typed
from model.training.files import corpus_files
from model.training.shards import TokenShards, tokenise


class Row(NamedTuple):
    """Token ids, and what the prediction of each weighs in the loss (the first is never predicted)."""

    ids: Sequence[int] | np.ndarray
    weights: Sequence[float] | np.ndarray


class Place(NamedTuple):
    """Where a row stands: everything that may decide what it holds."""

    seed: int
    step: int
    row: int
    rows: int
    """Rows of the whole step, over all processes."""

    def random(self, purpose: str) -> random.Random:
        """Chance of its own for each purpose: what one draws says nothing about what another does."""
        return random.Random(f"{purpose} {self.seed} {self.step} {self.row}")


class TokenSource(Protocol):
    """Anything that makes rows."""

    def row(self, place: Place) -> Row: ...


@dataclass(frozen=True)
class Given:
    """What a source is made with."""

    tokenizer: Any | None
    length: int
    cache: Path
    first: bool = True
    """The first of several processes makes and checks files; the others open them."""


def batch(source: TokenSource, seed: int, step: int, wanted: Iterable[int], rows: int) -> tuple[Tensor, Tensor]:
    """Token ids (int64) and loss weights (float32), both [row, pos], of some rows of a step.

    Args:
        wanted: the rows' numbers in the step, each below `rows`.
    Raises:
        ValueError: the rows of one step differ in length, or a weight is negative or not finite.
    """
    found = [source.row(Place(seed, step, row, rows)) for row in wanted]
    lengths = sorted({len(part) for one in found for part in one})
    if len(lengths) != 1 or lengths[0] < 2:
        raise ValueError(f"The rows of step {step}, ids and weights, must have one length, 2 or more, got {lengths}.")
    tokens = torch.from_numpy(np.array([row.ids for row in found], dtype=np.int64))
    weights = torch.from_numpy(np.array([row.weights for row in found], dtype=np.float32))
    if not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(f"The rows of step {step} have a negative or infinite weight. Weights are 0 or more.")
    return tokens, weights


class TextSource:
    """Rows cut from text files that are tokenised once.

    order "windows": each row starts anywhere, so that no cut is seen twice alike. "packed": the text is cut into rows
    that are each seen once an epoch, in an order that is shuffled anew for every epoch (in a
    mixture, rows that fall to another source are left out).
    Documents follow one another with the end token between them; attention may look across it.
    """

    ORDERS = ("windows", "packed")

    def __init__(self, shards: TokenShards, length: int, order: str = "windows"):
        if order not in self.ORDERS:
            raise ValueError(f"order={quoted(order)} is not one of {', '.join(self.ORDERS)}.")
        if len(shards) < length:
            raise ValueError(f"The text has {len(shards)} tokens, fewer than one row: length={length}. Give more.")
        self.shards, self.length, self.order = shards, length, order
        self.weights = np.ones(length, dtype=np.float32)
        self.epoch_order = lru_cache(maxsize=2)(_shuffled)

    def row(self, place: Place) -> Row:
        return Row(self.shards.cut(self._start(place), self.length), self.weights)

    def _start(self, place: Place) -> int:
        if self.order == "windows":
            return place.random("window").randrange(len(self.shards) - self.length + 1)
        count = len(self.shards) // self.length
        epoch, number = divmod(place.step * place.rows + place.row, count)
        return int(self.epoch_order(place.seed, epoch, count)[number]) * self.length


def _shuffled(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(count)


class GeneratorSource:
    """Rows from a function: make(seed, step, row, tokenizer, length) -> (ids, weights).

    Rows may be shorter than `length`, if all rows of a step are.
    """

    def __init__(self, make: Callable[..., Any], tokenizer: Any | None, length: int, name: str):
        self.make, self.tokenizer, self.length, self.name = make, tokenizer, length, name

    def row(self, place: Place) -> Row:
        made = self.make(place.seed, place.step, place.row, self.tokenizer, self.length)
        if not isinstance(made, tuple) or len(made) != 2:
            raise ValueError(f"{self.name} must return a tuple (ids, weights), got {type(made).__name__}.")
        row = Row(*made)
        if len(row.ids) > self.length:
            raise ValueError(f"{self.name} made a row of {len(row.ids)} tokens; at most length={self.length} fit.")
        return row


class MixtureSource:
    """Each row from one of several sources, by chance in proportion to their shares."""

    def __init__(self, sources: Sequence[TokenSource], shares: Sequence[float]):
        self.sources, self.shares = sources, shares

    def row(self, place: Place) -> Row:
        (source,) = place.random("mixture").choices(self.sources, self.shares)
        return source.row(place)


# -- from a training file ------------------------------------------------------------------------


def open_source(spec: dict[str, Any], given: Given, where: str = "data") -> TokenSource:
    """The source that a group of keys in a training file describes.

    Raises:
        ValueError: no or several kinds are named, a key is unknown, or the source itself cannot be opened.
    """
    kinds = [kind for kind in SOURCES if kind in spec]
    if len(kinds) != 1:
        named = ", ".join(kinds) or "none"
        raise ValueError(f"{where} must name one kind of source ({', '.join(SOURCES)}), got {named}.")
    return SOURCES[kinds[0]](spec, given, where)


def _text(spec: dict[str, Any], given: Given, where: str) -> TokenSource:
    refuse_unknown(where, spec, ("text", "order"))
    if given.tokenizer is None:
        raise ValueError(f"{where} reads text, which needs a tokenizer. Give the key tokenizer.")
    folder = tokenise(corpus_files(spec["text"]), given.tokenizer, given.cache)
    return TextSource(TokenShards(folder, check=given.first), given.length, spec.get("order", "windows"))


def _generator(spec: dict[str, Any], given: Given, where: str) -> TokenSource:
    refuse_unknown(where, spec, ("generator",))
    name = typed(f"{where}.generator", spec["generator"], str)
    return GeneratorSource(named_function(name, f"{where}.generator"), given.tokenizer, given.length, name)


def _mixture(spec: dict[str, Any], given: Given, where: str) -> TokenSource:
    refuse_unknown(where, spec, ("mixture",))
    parts = spec["mixture"]
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise ValueError(f"{where}.mixture must be a list of sources, each with its share, got {quoted(parts)}.")
    shares = [typed(f"{where}.mixture share", part.get("share"), float) for part in parts]
    if min(shares) < 0 or sum(shares) <= 0:
        raise ValueError(f"{where}.mixture has shares {shares}; none may be negative, and one must be more than 0.")
    bare = [{key: value for key, value in part.items() if key != "share"} for part in parts]
    sources = [open_source(part, given, f"{where}.mixture[{number}]") for number, part in enumerate(bare)]
    return MixtureSource(sources, shares)


SOURCES: dict[str, Callable[[dict[str, Any], Given, str], TokenSource]] = {
    "text": _text,
    "generator": _generator,
    "mixture": _mixture,
}
"""Kind of source, which is the key that names it -> how it is opened."""
