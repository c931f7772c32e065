"""Held-out predictions of every token, with the regularisation chosen inside: the plain way, fit by fit.

Outer folds are predicted by a probe fitted on all others. Its regularisation is the one with the least loss when each
of these other folds is predicted from the rest: nothing of an outer fold takes part in what predicts it. What is
fitted without folds k and j serves outer fold k (scored on j) and outer fold j (scored on k).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from probes.estimators import ProbeKind


@dataclass(frozen=True)
class HeldOut:
    """What a probe says of tokens that it was not fitted on.

    predicted: [token], a class as its number or a number; None for an online code, which predicts as it goes.
    bits: [token], -log2 of the probability given to the token's class; None without probabilities.
    chosen: the regularisation of each outer fold; empty where nothing is chosen.
    """

    predicted: NDArray | None
    bits: NDArray[np.float64] | None
    chosen: tuple[float, ...] = ()


def held_out(probe: ProbeKind, kind: str, X: NDArray, y: NDArray, folds: NDArray[np.intp], seed: int = 0) -> HeldOut:
    """Nested cross-validation of one probe.

    Args:
        kind: of y, "classes" or "numbers". X: [token, feature]. y: [token]. folds: the fold of each token.
        seed: of probes that start at random.
    """
    estimator = probe.estimator(kind)
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=seed)
    losses = _inner_losses(probe, estimator, X, y, folds)
    chosen = [probe.candidates[best] for best in losses.argmin(1)]
    predicted = np.empty(len(y), dtype=y.dtype)
    bits = np.empty(len(y)) if hasattr(estimator, "predict_proba") else None
    for fold, value in enumerate(chosen):
        test = folds == fold
        fitted = _fit(probe, estimator, value, X, y, ~test)
        predicted[test] = fitted.predict(X[test])
        if bits is not None:
            bits[test] = fitted.losses(X[test], y[test])
    return HeldOut(predicted, bits, tuple(map(float, chosen)))


def _inner_losses(probe: ProbeKind, estimator: Any, X: NDArray, y: NDArray, folds: NDArray[np.intp]) -> NDArray:
    """Summed loss of each candidate within the training set of each outer fold, [fold, candidate]."""
    n_folds = int(folds.max()) + 1
    losses = np.zeros((n_folds, len(probe.candidates)))
    for one, other in itertools.combinations(range(n_folds), 2):
        rest = (folds != one) & (folds != other)
        for number, value in enumerate(probe.candidates):
            fitted = _fit(probe, estimator, value, X, y, rest)
            losses[one, number] += fitted.losses(X[folds == other], y[folds == other]).sum()
            losses[other, number] += fitted.losses(X[folds == one], y[folds == one]).sum()
    return losses


def _fit(probe: ProbeKind, estimator: Any, value: float, X: NDArray, y: NDArray, rows: NDArray[np.bool_]) -> Any:
    return clone(estimator).set_params(**{str(probe.regularisation): value}).fit(X[rows], y[rows])
