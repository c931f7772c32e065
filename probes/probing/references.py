"""What a score is held against, and the references that need no features of the model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import SplineTransformer

from probes.probing.held_out import HeldOut
from probes.probing.label import Label

REFERENCES = {
    "constant": "the rates of the classes, or the mean, in the training folds (of an online code, in the blocks "
    "before): what needs no features at all",
    "shuffled_labels": "the same probe on the same features, labels traded among all tokens: what overfitting gives",
    "control_task": "the same probe and features on a control task, a random class kept by each token type: the "
    "difference is selectivity (Hewitt & Liang 2019, arXiv 1909.03368)",
    "position": "the same probe on the token's position alone",
    "token_identity": "the rates of the classes at each token type in the training folds: what a lookup table gives",
    "residual": "the same probe on the residual stream that the features are a function of",
    "residual_pca": "the same probe on the residual stream's principal components, as many as there are features",
    "residual_projection": "the same probe on a Gaussian random projection of the residual stream, as wide as the "
    "features",
    "random_init": "the same probe on the same features of the model with random weights",
}
"""Every reference, in words."""
OF_LABEL = ("constant", "token_identity")
"""Those without a probe."""
FAKES = ("shuffled_labels", "control_task")
"""Those that are another target of the same features."""
FIRST_POSITIONS = 4
"""Positions that have a feature of their own: models treat the first tokens of a text unlike all others."""


def position_features(positions: NDArray) -> NDArray[np.float64]:
    """Cubic splines of the position and of its logarithm, and the first positions one by one, [token, feature]."""
    place = positions.astype(np.float64)[:, None]
    curves = [SplineTransformer(n_knots=8, degree=3).fit_transform(x) for x in (place, np.log1p(place - place.min()))]
    first = positions[:, None] == positions.min() + np.arange(FIRST_POSITIONS)
    return np.concatenate([*curves, first], axis=1)


def without_probe(name: str, label: Label, token_ids: NDArray | None) -> HeldOut:
    """The held-out predictions of "constant" or "token_identity"."""
    types = np.zeros(len(label.tokens), dtype=np.intp)
    if name == "token_identity" and token_ids is not None:
        types = np.unique(token_ids[label.tokens], return_inverse=True)[1]
    estimate = _rates if label.kind == "classes" else _means
    predicted = np.empty_like(label.values)
    bits = np.empty(len(types)) if label.kind == "classes" else None
    for fold in np.unique(label.folds):
        test = label.folds == fold
        found = estimate(label, types, ~test)[types[test]]
        if bits is None:
            predicted[test] = found
        else:
            predicted[test] = found.argmax(1)
            bits[test] = -np.log2(found[np.arange(len(found)), label.values[test]])
    return HeldOut(predicted, bits)


def _rates(label: Label, types: NDArray[np.intp], train: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Rates of classes at each type, [type, K], with one imagined token that has every class at its overall rate."""
    K = len(label.classes)
    counts = np.bincount(types[train] * K + label.values[train], minlength=(types.max() + 1) * K).reshape(-1, K)
    overall = counts.sum(0) / counts.sum()
    return (counts + overall) / (counts.sum(1, keepdims=True) + 1)


def _means(label: Label, types: NDArray[np.intp], train: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean number at each type, [type], with one imagined token at the overall mean."""
    size = int(types.max()) + 1
    sums = np.bincount(types[train], weights=label.values[train], minlength=size)
    counts = np.bincount(types[train], minlength=size)
    return (sums + label.values[train].mean()) / (counts + 1)
