"""Nearest-neighbour probes on standardised features: what lies close together, without any learned direction."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.estimators.base import ClassProbe, NumberProbe, clipped_log


class NeighboursProbe(ClassProbe):
    """Classes of the nearest rows, smoothed by one imagined neighbour that has every class at its rate.

    Args:
        neighbours: how many are asked; all rows where there are fewer.
    Attributes:
        priors_: rate of each class, [K].
    """

    def __init__(self, neighbours: int = 16):
        self.neighbours = neighbours

    def _fit(self, X: NDArray, codes: NDArray[np.intp]) -> Self:
        self.priors_ = np.bincount(codes, minlength=len(self.classes_)) / len(codes)
        self.scaler_ = StandardScaler().fit(X)
        self.nearest_ = NearestNeighbors(n_neighbors=min(self.neighbours, len(X))).fit(self.scaler_.transform(X))
        self.codes_ = codes
        return self

    def _log_proba(self, X: NDArray) -> NDArray:
        near = self.codes_[self.nearest_.kneighbors(self.scaler_.transform(X), return_distance=False)]
        counts = np.stack([(near == code).sum(1) for code in range(len(self.classes_))], 1)
        return clipped_log((counts + self.priors_) / (near.shape[1] + 1))


class NeighboursNumberProbe(NumberProbe):
    """The mean number of the nearest rows.

    Args:
        neighbours: how many are asked; all rows where there are fewer.
    """

    def __init__(self, neighbours: int = 16):
        self.neighbours = neighbours

    def _fit(self, X: NDArray, y: NDArray) -> Self:
        nearest = KNeighborsRegressor(n_neighbors=min(self.neighbours, len(X)))
        self.model_ = make_pipeline(StandardScaler(), nearest).fit(X, y)
        return self

    def _predict(self, X: NDArray) -> NDArray:
        return self.model_.predict(X)
