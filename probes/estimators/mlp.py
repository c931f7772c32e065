"""Small MLP probes on standardised features: one hidden layer, a fixed number of passes over the rows."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.estimators.base import ClassProbe, NumberProbe, clipped_log


class MLPProbe(ClassProbe):
    """scikit-learn's MLPClassifier behind a StandardScaler.

    Its own early stopping would set rows aside without regard to documents, so the passes are fixed instead.

    Args:
        penalty: L2 penalty of the weights. hidden: units. passes: over the rows. random_state: of weights and order.
    """

    def __init__(self, penalty: float = 1e-3, hidden: int = 64, passes: int = 30, random_state: int | None = 0):
        self.penalty = penalty
        self.hidden = hidden
        self.passes = passes
        self.random_state = random_state

    def _fit(self, X: NDArray, codes: NDArray[np.intp]) -> Self:
        self.model_ = _fitted(MLPClassifier, self, X, codes)
        return self

    def _log_proba(self, X: NDArray) -> NDArray:
        return clipped_log(self.model_.predict_proba(X))


class MLPNumberProbe(NumberProbe):
    """scikit-learn's MLPRegressor behind a StandardScaler, on numbers brought to mean 0 and variance 1.

    Args:
        penalty, hidden, passes, random_state: as in MLPProbe.
    """

    def __init__(self, penalty: float = 1e-3, hidden: int = 64, passes: int = 30, random_state: int | None = 0):
        self.penalty = penalty
        self.hidden = hidden
        self.passes = passes
        self.random_state = random_state

    def _fit(self, X: NDArray, y: NDArray) -> Self:
        self.mean_, self.scale_ = y.mean(), y.std() or 1.0
        self.model_ = _fitted(MLPRegressor, self, X, (y - self.mean_) / self.scale_)
        return self

    def _predict(self, X: NDArray) -> NDArray:
        return self.model_.predict(X) * self.scale_ + self.mean_


def _fitted(network: Any, probe: MLPProbe | MLPNumberProbe, X: NDArray, y: NDArray) -> Pipeline:
    made = network(
        hidden_layer_sizes=(probe.hidden,), alpha=probe.penalty, batch_size=min(256, len(X)), max_iter=probe.passes,
        learning_rate_init=3e-3, random_state=probe.random_state,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the passes are fixed on purpose
        return make_pipeline(StandardScaler(), made).fit(X, y)
