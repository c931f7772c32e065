"""Components of a field of features without any label: principal, non-negative, or clusters.

Axes: token, component, feature.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF, PCA
from sklearn.exceptions import ConvergenceWarning


@dataclass(frozen=True)
class Components:
    """What a method finds.

    scores: how strongly each token has each component, [token, component]; of a cluster minus the distance from its
        centre. directions: [component, feature]; of a cluster its centre less the mean of all tokens.
    share: of the variance (pca), of the sum of all entries (nmf) or of the tokens (kmeans) that each accounts for.
    signed: a component has two ends, whose tokens differ from it in opposite ways; its sign means nothing.
    members: the cluster of each token, [token]; None for other methods.
    """

    method: str
    scores: NDArray[np.float64]
    directions: NDArray[np.float64]
    share: NDArray[np.float64]
    signed: bool
    members: NDArray[np.intp] | None = None


def decompose(X: ArrayLike, count: int, method: str = "pca", *, signs: str = "refuse", seed: int = 0) -> Components:
    """Take features apart.

    Args:
        X: [token, feature], in units that are alike: entries of a mixing matrix, say; nothing is standardised.
        count: how many components. method: of METHODS. seed: of methods that start at random.
        signs: what "nmf" makes of negative numbers: "refuse" them, or "split" every feature into a positive and a
            negative part, so that there are twice as many features, the positive parts first.
    Raises:
        ValueError: numbers that are not finite, more components than can be, an unknown method, or negative numbers
            for nmf.
    """
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}. Choose from {', '.join(METHODS)}.")
    if signs not in ("refuse", "split"):
        raise ValueError(f"signs must be 'refuse' or 'split', got {signs!r}.")
    values = checked(X)
    if method == "nmf":
        values = _not_negative(values, signs)
    most = len(values) if method == "kmeans" else min(values.shape)
    if not 1 <= count <= most:
        raise ValueError(f"{count} components were asked for; {method} of {list(values.shape)} has 1 to {most}.")
    return METHODS[method](values, count, seed)


def checked(X: ArrayLike) -> NDArray[np.float64]:
    """Features as float64.

    Raises:
        ValueError: not [token, feature], or numbers that are not finite.
    """
    values = np.asarray(X, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"Features must be [token, feature], got shape {list(values.shape)}.")
    if not np.isfinite(values).all():
        column = int((~np.isfinite(values)).any(0).argmax())
        raise ValueError(f"Feature {column} has NaN or infinite numbers. Leave this feature or its tokens out.")
    return values


def _not_negative(values: NDArray[np.float64], signs: str) -> NDArray[np.float64]:
    negative = (values < 0).mean()
    if not negative:
        return values
    if signs == "refuse":
        raise ValueError(
            f"nmf takes no negative numbers, and {negative:.1%} of these are. Say signs='split' to give it their "
            "positive and negative parts as features of their own, or take pca."
        )
    return np.concatenate([values.clip(min=0), (-values).clip(min=0)], 1)


def _pca(X: NDArray[np.float64], count: int, seed: int) -> Components:
    found = PCA(count, svd_solver="full" if len(X) < X.shape[1] else "covariance_eigh").fit(X)
    return Components("pca", found.transform(X), found.components_, found.explained_variance_ratio_, signed=True)


def _nmf(X: NDArray[np.float64], count: int, seed: int) -> Components:
    found = NMF(count, init="nndsvda", random_state=seed, max_iter=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # enough passes for stable parts; stability() says so
        scores = found.fit_transform(X)
    # a component's length moves freely between scores and directions: directions get length 1
    length = np.linalg.norm(found.components_, axis=1)
    scores, directions = scores * length, found.components_ / np.where(length > 0, length, 1.0)[:, None]
    mass = scores.sum(0) * directions.sum(1)
    order = np.argsort(-mass)
    share = mass[order] / X.sum() if X.any() else np.zeros(count)
    return Components("nmf", scores[:, order], directions[order], share, signed=False)


def _kmeans(X: NDArray[np.float64], count: int, seed: int) -> Components:
    found = KMeans(count, n_init=4, random_state=seed).fit(X)
    sizes = np.bincount(found.labels_, minlength=count)
    order = np.argsort(-sizes, kind="stable")
    place = np.argsort(order)
    return Components(
        "kmeans", -found.transform(X)[:, order], (found.cluster_centers_ - X.mean(0))[order], sizes[order] / len(X),
        signed=False, members=place[found.labels_],
    )  # fmt: skip


METHODS: dict[str, Callable[[NDArray[np.float64], int, int], Components]] = {
    "pca": _pca,
    "nmf": _nmf,
    "kmeans": _kmeans,
}
"""Principal components; non-negative matrix factorisation; clusters by k-means."""
