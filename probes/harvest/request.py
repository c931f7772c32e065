"""What is asked of a harvest: all that decides the bits of its store, so that a stopped one can be known again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.store import StoreError


@dataclass(frozen=True)
class Keep:
    """Which tokens are kept; all of a document's are read by the model all the same, up to the last that is kept.

    label, values: only tokens whose label has one of these values. every: of these every n-th, counted within the
    document. per_document: of these at most so many, drawn from seed and the document's number.
    """

    every: int = 1
    label: str | None = None
    values: tuple[str, ...] = ()
    per_document: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every={self.every}: every n-th token is kept, n at least 1.")
        if self.per_document is not None and self.per_document < 1:
            raise ValueError(f"per_document={self.per_document}: at least 1 token of a document must be kept.")
        if (self.label is None) != (not self.values):
            raise ValueError(f"label={self.label!r} and values={self.values!r} belong together. Give both or neither.")

    def positions(self, tokens: int, document: int, labels: Sequence[Any] | NDArray[Any] | None) -> NDArray[np.int64]:
        """Positions of the kept tokens of a document, ascending.

        Args:
            document: its number in the corpus. labels: values of the label, one a token, where one decides.
        """
        kept = np.arange(tokens)
        if self.label is not None:
            assert labels is not None
            wanted = set(self.values)
            kept = np.array([place for place, value in enumerate(labels) if str(value) in wanted], np.int64)
        kept = kept[:: self.every]
        if self.per_document is None or len(kept) <= self.per_document:
            return kept
        rng = np.random.default_rng([self.seed, document])
        return np.sort(rng.choice(kept, self.per_document, replace=False))


@dataclass(frozen=True)
class Request:
    """The settings of a harvest.

    model: name, weights_sha256, dtype and config. corpus: Corpus.describe(). features: names of the tensors and
    columns that are written. labels: names. dtype: of the tensors. context: tokens that the model reads at a time.
    shard_bytes: size of a shard. batch_tokens: tokens of one forward pass, padding included. device: its type.
    """

    model: Mapping[str, Any]
    corpus: Mapping[str, Any]
    features: tuple[str, ...]
    labels: tuple[str, ...]
    keep: Keep
    dtype: str
    context: int
    shard_bytes: int
    batch_tokens: int
    device: str

    def to_json(self) -> dict[str, Any]:
        """As it comes back from a file."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def check_same(self, begun: Mapping[str, Any], folder: Any) -> None:
        """Refuse to go on with a harvest that was begun with other settings.

        Raises:
            StoreError: naming the settings that differ.
        """
        mine = self.to_json()
        if mine["model"]["weights_sha256"] != begun["model"]["weights_sha256"]:
            raise StoreError(
                f"{folder} was made with {begun['model']['name']} (weights {begun['model']['weights_sha256'][:12]}), "
                "and "
                f"this is {mine['model']['name']} (weights {mine['model']['weights_sha256'][:12]}). Give that model or "
                "another folder."
            )
        different = [name for name in mine if mine[name] != begun.get(name)]
        if different:
            told = "; ".join(f"{name} was {_short(begun.get(name))}, now {_short(mine[name])}" for name in different)
            raise StoreError(f"{folder} was begun with other settings: {told}. Give the same, or another folder.")


def _short(value: Any, length: int = 120) -> str:
    text = json.dumps(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."
