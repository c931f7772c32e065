"""Ridge probes on standardised features: of numbers, and of classes as scikit-learn's RidgeClassifier has them."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from probes.estimators.base import NumberProbe, checked_classes


class RidgeProbe(NumberProbe):
    """Least squares with an L2 penalty.

    Args:
        penalty: of the squared coefficients of standardised features, per row: scikit-learn's alpha is penalty * rows.
    Attributes:
        model_: the fitted pipeline.
    """

    def __init__(self, penalty: float = 1e-2):
        self.penalty = penalty

    def _fit(self, X: NDArray, y: NDArray) -> Self:
        self.model_ = make_pipeline(StandardScaler(), Ridge(alpha=self.penalty * len(X))).fit(X, y)
        return self

    def _predict(self, X: NDArray) -> NDArray:
        return self.model_.predict(X)


class RidgeClassProbe(ClassifierMixin, BaseEstimator):
    """Ridge regression on an indicator (1 or -1) of each class; the largest wins. It has no probabilities.

    Args:
        penalty: as in RidgeProbe.
    Attributes:
        classes_: [K]. model_: the fitted pipeline.
    """

    def __init__(self, penalty: float = 1e-2):
        self.penalty = penalty

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit on X [row, feature] and y [row].

        Raises:
            ValueError: lengths that differ, numbers that are not finite, or a single class.
        """
        rows, self.classes_, codes = checked_classes(self, X, y)
        model = RidgeClassifier(alpha=self.penalty * len(rows))
        self.model_ = make_pipeline(StandardScaler(), model).fit(rows, self.classes_[codes])
        return self

    def decision_function(self, X: ArrayLike) -> NDArray:
        """The estimated indicators, [row, K]; with two classes that of the second, [row]."""
        check_is_fitted(self)
        return self.model_.decision_function(validate_data(self, X, reset=False, dtype=np.float64))

    def predict(self, X: ArrayLike) -> NDArray:
        check_is_fitted(self)
        return self.model_.predict(validate_data(self, X, reset=False, dtype=np.float64))

    def losses(self, X: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Squared error of each row's indicators, summed over classes."""
        found = self.decision_function(X)
        columns = np.stack([-found, found], 1) if found.ndim == 1 else found
        truth = np.where(np.asarray(y)[:, None] == self.classes_, 1.0, -1.0)
        return ((columns - truth) ** 2).sum(1)
