"""held_out of nearest-neighbour probes: one search a training set serves all targets and numbers of neighbours."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from probes.estimators.base import LEAST_PROBABILITY
from probes.probing.held_out import HeldOut


def neighbours_held_out(
    X: NDArray, targets: NDArray, classes: int | None, folds: NDArray[np.intp], candidates: Sequence[float]
) -> list[HeldOut]:
    """held_out with NeighboursProbe or NeighboursNumberProbe for each target.

    Args:
        targets: [target, token], numbers, or classes as numbers from 0. classes: how many, None for numbers.
        candidates: numbers of neighbours.
    """
    counts, n_folds = [int(count) for count in candidates], int(folds.max()) + 1
    losses = np.zeros((len(targets), n_folds, len(counts)))
    for pair in itertools.combinations(range(n_folds), 2):
        train = np.flatnonzero(~np.isin(folds, pair))
        for scored, outer in (pair, pair[::-1]):
            test = np.flatnonzero(folds == scored)
            near = train[_nearest(X, train, test, max(counts))]
            for (t, target), (number, count) in itertools.product(enumerate(targets), enumerate(counts)):
                _, loss = _read(target, classes, train, test, near[:, :count])
                losses[t, outer, number] += loss.sum()
    best = losses.argmin(2)
    predicted, loss = np.empty_like(targets), np.empty(targets.shape)
    for fold in range(n_folds):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        near = train[_nearest(X, train, test, max(counts))]
        for t, target in enumerate(targets):
            found = _read(target, classes, train, test, near[:, : counts[best[t, fold]]])
            predicted[t, test], loss[t, test] = found
    chosen = [tuple(float(counts[number]) for number in row) for row in best]
    return [HeldOut(predicted[t], None if classes is None else loss[t], chosen[t]) for t in range(len(targets))]


def _nearest(X: NDArray, train: NDArray[np.intp], test: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """The nearest training rows of each test row, nearest first, as places in `train`; [test row, neighbour]."""
    scaler = StandardScaler().fit(X[train].astype(np.float64))
    search = NearestNeighbors(n_neighbors=min(count, len(train))).fit(scaler.transform(X[train].astype(np.float64)))
    return search.kneighbors(scaler.transform(X[test].astype(np.float64)), return_distance=False)


def _read(
    target: NDArray, classes: int | None, train: NDArray[np.intp], test: NDArray[np.intp], near: NDArray[np.intp]
) -> tuple[NDArray, NDArray[np.float64]]:
    """What the neighbours predict, and its loss (bits, or squared error), of each test row."""
    if classes is None:
        found = target[near].mean(1)
        return found, (found - target[test]) ** 2
    rates = np.bincount(target[train], minlength=classes) / len(train)
    counts = np.stack([(target[near] == code).sum(1) for code in range(classes)], 1)
    probability = (counts + rates) / (near.shape[1] + 1)
    truth = probability[np.arange(len(test)), target[test]]
    return probability.argmax(1), -np.log2(truth.clip(min=LEAST_PROBABILITY))
