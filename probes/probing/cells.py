"""What is probed: a matrix of features under the labels that place it in the table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.random_projection import GaussianRandomProjection

Features = NDArray | Callable[[], NDArray]
"""[token, feature], or a function that loads it where it is needed (it must pickle to run in other processes)."""


@dataclass(frozen=True)
class ProbeCell:
    """One matrix of features.

    labels: its place in the table, such as {"layer": 2, "site": "post", "branch": "query_lowrank"}; no two cells alike.
    X: its features. residual: name of the residual stream that they are a function of, among the `residuals` that
    probe_cells is given; None = no such reference. random_init: the same features of the model with random weights.
    """

    labels: Mapping[str, Any]
    X: Features = field(compare=False)
    residual: str | None = None
    random_init: Features | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        return json.dumps(dict(self.labels), sort_keys=True)


@dataclass(frozen=True)
class Source:
    """A matrix of features that probes are fitted on: a cell's own or a reference's.

    reduced: None, or how it is made from X: "pca" or "projection", to so many dimensions. digest: of X's content.
    """

    key: str
    X: Features
    digest: str
    features: int
    reduced: tuple[str, int] | None = None
    seed: int = 0

    def load(self) -> NDArray:
        """[token, feature] in floating point."""
        X = _loaded(self.X)
        if self.reduced is None:
            return X
        method, dimensions = self.reduced
        # no label takes part, so fitting on all tokens tells nothing of the held-out ones' labels
        if method == "pca":
            return PCA(n_components=dimensions, svd_solver="covariance_eigh").fit_transform(X.astype(np.float64))
        return GaussianRandomProjection(n_components=dimensions, random_state=self.seed).fit_transform(X)

    def reduced_to(self, method: str, dimensions: int, seed: int) -> Source:
        """PCA ("pca") or a Gaussian random projection ("projection") of it."""
        key, digest = f"{method} {dimensions} of {self.key}", f"{self.digest} {method} {dimensions} {seed}"
        return Source(key, self.X, digest, dimensions, (method, dimensions), seed)


def checked_source(key: str, X: Features, tokens: int, columns: str = "feature") -> Source:
    """A source whose features were looked at once.

    Raises:
        ValueError: not [token, feature], another number of tokens, nothing that varies, or numbers that are not finite.
    """
    values = _loaded(X)
    if values.ndim != 2 or len(values) != tokens or not values.shape[1]:
        raise ValueError(f"{key}: features must be [token, feature] with {tokens} tokens, got {list(values.shape)}.")
    wrong = ~np.isfinite(values)
    if wrong.any():
        token, column = (int(index) for index in np.argwhere(wrong)[0])
        kinds = "NaN" if np.isnan(values[token, column]) else "infinite"
        raise ValueError(
            f"{key}: {columns} {column} is {kinds} at token {token} ({int(wrong.sum())} such numbers in "
            f"{int(wrong.any(0).sum())} of {values.shape[1]} columns). Leave these columns or tokens out, or harvest "
            "in a wider dtype."
        )
    if not np.ptp(values, axis=0).any():
        raise ValueError(f"{key}: every feature is constant, so there is nothing to probe. Leave this cell out.")
    return Source(key, X, digest(values), values.shape[1])


def digest(values: NDArray) -> str:
    """The content of an array in 16 letters."""
    values = np.ascontiguousarray(values)
    if values.dtype == object:
        values = values.astype(str)
    found = hashlib.sha256(f"{values.dtype} {values.shape}".encode())
    found.update(values.view(np.uint8).data if values.dtype.kind in "biuf" else values.tobytes())
    return found.hexdigest()[:16]


def seed_of(seed: int, *words: str) -> int:
    """A seed for one piece of the work, the same in whatever order and process it is done."""
    return int.from_bytes(hashlib.sha256("\n".join((str(seed), *words)).encode()).digest()[:4], "big")


def _loaded(X: Features) -> NDArray:
    values = np.asarray(X() if callable(X) else X)
    return values if values.dtype.kind == "f" and values.dtype.itemsize >= 4 else values.astype(np.float32)
