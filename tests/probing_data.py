"""Synthetic tokens whose features are known to say a label, or known not to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.probing import ProbeCell


@dataclass
class Corpus:
    """Tokens in documents of unlike lengths. documents, positions, token_ids: [token]."""

    documents: NDArray
    positions: NDArray
    token_ids: NDArray
    rng: np.random.Generator

    def __len__(self) -> int:
        return len(self.documents)

    def noise(self, features: int) -> NDArray:
        return self.rng.normal(size=(len(self), features))


def corpus(documents: int = 40, shortest: int = 12, longest: int = 40, types: int = 30, seed: int = 0) -> Corpus:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(shortest, longest + 1, documents)
    positions = np.concatenate([np.arange(length) for length in lengths])
    # names that are neither sorted nor numbered, as documents of a store may be
    names = rng.permutation(documents * 7)[:documents]
    return Corpus(np.repeat(names, lengths), positions, rng.integers(0, types, len(positions)), rng)


def linear_classes(X: NDArray, classes: int, rng: np.random.Generator, strength: float = 1.0) -> NDArray:
    """Classes drawn from a multinomial logit of X: the linear probe's own model."""
    scores = strength * X @ rng.normal(size=(X.shape[1], classes))
    return np.array([f"class {c}" for c in range(classes)])[(scores + rng.gumbel(size=scores.shape)).argmax(1)]


def cell(X: NDArray, name: str = "planted", **references: object) -> ProbeCell:
    return ProbeCell({"cell": name}, X, **references)  # type: ignore[arg-type]


def against(table, reference: str, score: str = "accuracy", **where: object):
    """The one row of a table with this reference and score, further columns as given."""
    chosen = table[(table.against == reference) & (table.score == score)]
    for name, value in where.items():
        chosen = chosen[chosen[name] == value]
    assert len(chosen) == 1, f"{len(chosen)} rows for {reference}, {score}, {where}"
    return chosen.iloc[0]
