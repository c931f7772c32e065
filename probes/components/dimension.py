"""In how many directions features move: linearly (participation ratio), and along a curved surface (TwoNN)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.neighbors import NearestNeighbors

from probes.components.decompose import checked

MOST_POINTS = 10_000
DISCARDED = 0.1
"""Share of the largest ratios that TwoNN leaves out, as its authors do: there density is least even."""


def participation_ratio(X: ArrayLike) -> float:
    """(sum of the covariance's eigenvalues)^2 / sum of their squares: k where k directions vary alike, and no others.

    0 where nothing varies. Unlike the effective rank of probes.metrics it is not an entropy, and weak directions count
    for less.
    """
    values = checked(X)
    centred = values - values.mean(0)
    covariance = centred.T @ centred / len(values)
    squares = float((covariance**2).sum())
    return float(np.trace(covariance)) ** 2 / squares if squares else 0.0


@dataclass(frozen=True)
class IntrinsicDimension:
    """value: the dimension. error: its standard error. points: how many were used. duplicates: how many were left out
    because another point lies in the same place."""

    value: float
    error: float
    points: int
    duplicates: int


def two_nn(X: ArrayLike, *, most_points: int = MOST_POINTS, seed: int = 0) -> IntrinsicDimension:
    """Intrinsic dimension from the ratio of each point's distances to its two nearest neighbours.

    Facco, d'Errico, Rodriguez & Laio 2017 (Sci. Rep. 7, 12140): -log(1 - F(ratio)) = dimension * log(ratio), fitted
    through the origin. It takes density to be even over the distance of two neighbours, and reads too low where points
    are few for the dimension (roughly above 10).

    Args:
        X: [token, feature]. most_points: as many are drawn where there are more. seed: of the draw.
    Raises:
        ValueError: fewer than 20 distinct points.
    """
    every = checked(X)
    distinct = np.unique(every, axis=0)
    if len(distinct) < 20:
        raise ValueError(f"{len(distinct)} of {len(every)} points are distinct, and TwoNN needs 20. Give more tokens.")
    drawn = min(most_points, len(distinct))
    points = distinct[np.random.default_rng(seed).permutation(len(distinct))[:drawn]]
    distances, _ = NearestNeighbors(n_neighbors=3).fit(points).kneighbors(points)
    usable = distances[:, 1] > 0  # points so near that their distance rounds to 0 have no ratio
    ratios = np.sort(np.log(distances[usable, 2] / distances[usable, 1]))
    kept = int(len(ratios) * (1 - DISCARDED))
    height = -np.log1p(-np.arange(1, kept + 1) / len(ratios))
    value = float(ratios[:kept] @ height / (ratios[:kept] @ ratios[:kept]))
    return IntrinsicDimension(value, float(value / np.sqrt(kept)), len(ratios), len(every) - len(distinct))
