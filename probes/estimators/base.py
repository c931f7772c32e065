"""What learned probes have in common beyond scikit-learn's contract: the loss that chooses their regularisation."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

LEAST_PROBABILITY = 1e-12
"""What is read of a probability of 0, so that a probe that was sure and wrong pays 40 bits and not infinitely many."""


class ClassProbe(ClassifierMixin, BaseEstimator):
    """A probe of classes with probabilities.

    Attributes: classes_ [K]; n_features_in_.
    """

    classes_: NDArray
    n_features_in_: int

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on X [row, feature] and y [row].

        Raises:
            ValueError: lengths that differ, numbers that are not finite, or a single class.
        """
        X, codes = self._checked(X, y)
        return self._fit(X, codes)

    @abstractmethod
    def _fit(self, X: NDArray, codes: NDArray[np.intp]) -> Self:
        """Fit on classes given as indices of classes_."""

    @abstractmethod
    def _log_proba(self, X: NDArray) -> NDArray:
        """Natural logarithms of probabilities, [row, K]."""

    def predict_log_proba(self, X: ArrayLike) -> NDArray:
        check_is_fitted(self)
        return self._log_proba(validate_data(self, X, reset=False, dtype=np.float64))

    def predict_proba(self, X: ArrayLike) -> NDArray:
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: ArrayLike) -> NDArray:
        best = self.predict_log_proba(X).argmax(1)
        return self.classes_[best]

    def losses(self, X: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Cross-entropy of each row in bits; a class that the probe was not fitted on has the least probability."""
        log_proba = self.predict_log_proba(X)
        codes = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        known = self.classes_[codes] == np.asarray(y)
        chosen = log_proba[np.arange(len(codes)), codes]
        return np.where(known, -chosen, -np.log(LEAST_PROBABILITY)) / np.log(2)

    def _checked(self, X: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray[np.intp]]:
        checked, self.classes_, codes = checked_classes(self, X, y)
        return checked, codes


class NumberProbe(RegressorMixin, BaseEstimator):
    """A probe of numbers. Attributes: n_features_in_."""

    n_features_in_: int

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on X [row, feature] and y [row].

        Raises:
            ValueError: lengths that differ, or numbers that are not finite.
        """
        checked: tuple[NDArray, NDArray] = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        return self._fit(*checked)

    @abstractmethod
    def _fit(self, X: NDArray, y: NDArray) -> Self:
        """Fit on checked arrays."""

    @abstractmethod
    def _predict(self, X: NDArray) -> NDArray:
        """Numbers, [row]."""

    def predict(self, X: ArrayLike) -> NDArray:
        check_is_fitted(self)
        return self._predict(validate_data(self, X, reset=False, dtype=np.float64))

    def losses(self, X: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Squared error of each row."""
        return (self.predict(X) - np.asarray(y, dtype=np.float64)) ** 2


def checked_classes(probe: BaseEstimator, X: ArrayLike, y: ArrayLike) -> tuple[NDArray, NDArray, NDArray[np.intp]]:
    """(X in float64, the classes, the class of each row as its number).

    Raises:
        ValueError: lengths that differ, numbers that are not finite, or a single class.
    """
    rows: tuple[NDArray, NDArray] = validate_data(probe, X, y, dtype=np.float64)
    check_classification_targets(rows[1])
    classes, codes = np.unique(rows[1], return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y has one class, {classes[0]!r}. A probe of classes needs at least 2 classes.")
    return rows[0], classes, codes


def clipped_log(probabilities: Any) -> NDArray:
    """Natural logarithm, LEAST_PROBABILITY read in place of less."""
    return np.log(np.clip(probabilities, LEAST_PROBABILITY, None))
