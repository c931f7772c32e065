"""Linear probe of classes: multinomial logistic regression on standardised features."""

from __future__ import annotations

import warnings
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning

from probes.estimators.base import ClassProbe
from probes.estimators.chunked_rows import ChunkedRows
from probes.estimators.multinomial import Problems, fit_multinomial


class LinearProbe(ClassProbe):
    """Multinomial logistic regression with an L2 penalty.

    The objective is that of scikit-learn's LogisticRegression behind a StandardScaler, with C = 1 / (penalty * rows).

    Args:
        penalty: of the squared coefficients of standardised features, per row. tolerance: of the gradient, in
            whitened coordinates. max_iterations: of L-BFGS.
    Attributes:
        coef_: [K, feature], of the features as given; intercept_: [K]; n_iter_.
    """

    def __init__(self, penalty: float = 1e-2, tolerance: float = 1e-6, max_iterations: int = 500):
        self.penalty = penalty
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    def _fit(self, X: NDArray, codes: NDArray[np.intp]) -> Self:
        rows = ChunkedRows(X)
        sets = rows.training_sets(torch.ones(1, 1, dtype=torch.bool))
        only, penalty = torch.zeros(1, dtype=torch.long), torch.tensor([self.penalty], dtype=torch.float64)
        labels = [codes_RT.mT.contiguous() for codes_RT in rows.cut(codes[:, None].astype(np.int64))]
        found = fit_multinomial(
            Problems(rows, sets, labels, len(self.classes_), only, only, penalty),
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
        if not bool(found.converged[0]):
            warnings.warn(
                f"The fit stopped after {int(found.iterations[0])} iterations before its gradient was below "
                f"{self.tolerance:g}. Give a larger penalty or more max_iterations.",
                ConvergenceWarning,
                stacklevel=3,
            )
        weights, intercepts = (part[0].numpy() for part in found.raw(sets, only))
        self.coef_ = weights / rows.unit
        self.intercept_ = intercepts - self.coef_ @ rows.shift
        self.n_iter_ = int(found.iterations[0])
        return self

    def decision_function(self, X: NDArray) -> NDArray:
        """Log-odds of the second class, [row], or with more than two classes the scores, [row, K]."""
        log_proba = self.predict_log_proba(X)
        return log_proba[:, 1] - log_proba[:, 0] if len(self.classes_) == 2 else log_proba

    def _log_proba(self, X: NDArray) -> NDArray:
        return log_softmax(X @ self.coef_.T + self.intercept_, axis=1)
