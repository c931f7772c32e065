"""Whether the same components come back: from other starts, and from the other half of the documents."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from probes.components.decompose import Components, checked, decompose

ACROSS = {
    "seeds": "all tokens, other random starts",
    "halves": "two halves of the documents, taken at random, against each other",
}
COLUMNS = {
    "component": "its number in the first of the two runs that are compared",
    "across": "of ACROSS",
    "run": "number of the comparison",
    "similarity": "cosine of the matched directions, its sign left out for signed components; 1 = the same",
    "chance": "the same for as many random directions, spread over features as the components are",
}
"""Of the result, and what they mean."""


def stability(
    X: ArrayLike, documents: ArrayLike, count: int, method: str = "pca", *, signs: str = "refuse", runs: int = 5,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Fit again and again, and match components one to one so that similarities sum to the most.

    Args:
        X, count, method, signs: as for decompose. documents: the document of each token, [token]. runs: of each kind.
    Returns:
        COLUMNS, a row for each component and comparison.
    Raises:
        ValueError: what decompose refuses, lengths that differ, or fewer than 2 documents.
    """
    values, owner = checked(X), np.asarray(documents)
    if owner.shape != (len(values),):
        raise ValueError(f"documents has shape {list(owner.shape)}, features have {len(values)} tokens.")
    names = np.unique(owner)
    if len(names) < 2:
        raise ValueError("Halves of documents need at least 2 documents, and 1 was given.")
    rng = np.random.default_rng(seed)
    first = decompose(values, count, method, signs=signs, seed=seed)
    rows = []
    for run in range(runs):
        again = decompose(values, count, method, signs=signs, seed=seed + 1 + run)
        rows += _compared(first, again, "seeds", run, rng)
        half = np.isin(owner, rng.permutation(names)[: len(names) // 2])
        one, other = (decompose(values[part], count, method, signs=signs, seed=seed) for part in (half, ~half))
        rows += _compared(one, other, "halves", run, rng)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _compared(one: Components, other: Components, across: str, run: int, rng: np.random.Generator) -> list[tuple]:
    found = matched(one.directions, other.directions, one.signed)
    # random directions with the spread that the components themselves have over features
    spread = np.sqrt((one.directions**2).mean(0))
    random = [np.abs(noise) if one.method == "nmf" else noise for noise in
              (rng.normal(size=one.directions.shape) * spread for _ in range(2))]  # fmt: skip
    chance = matched(random[0], random[1], one.signed)
    return [(number, across, run, found[number], chance[number]) for number in range(len(found))]


def matched(one: NDArray[np.float64], other: NDArray[np.float64], signed: bool) -> NDArray[np.float64]:
    """Cosine of each direction with the one that it is matched to (Hungarian method), [component]."""
    cosines = _unit(one) @ _unit(other).T
    similarity = np.abs(cosines) if signed else cosines
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    return similarity[rows, columns]


def _unit(directions: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(directions, axis=1, keepdims=True)
    return directions / np.where(length > 0, length, 1.0)
