"""Learned probes are scikit-learn estimators, and the linear ones are scikit-learn's own objectives."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from probes.estimators import (
    PROBES, LinearProbe, MLPNumberProbe, MLPProbe, NeighboursNumberProbe, NeighboursProbe, OnlineCodeProbe,
    RidgeClassProbe, RidgeProbe, known_probes,
)  # fmt: skip

EVERY = [
    LinearProbe(), RidgeProbe(), RidgeClassProbe(), NeighboursProbe(neighbours=3), NeighboursNumberProbe(neighbours=3),
    MLPProbe(hidden=8, passes=600), MLPNumberProbe(hidden=8, passes=600), OnlineCodeProbe(),
]  # fmt: skip


@parametrize_with_checks(EVERY)
def test_the_contract_of_scikit_learn(estimator, check):
    check(estimator)
