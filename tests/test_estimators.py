"""Learned probes are scikit-learn estimators, and the linear ones are scikit-learn's own objectives."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from probes.estimators import (
    PROBES,
    LinearProbe,
    MLPNumberProbe,
    MLPProbe,
    NeighboursNumberProbe,
    NeighboursProbe,
    OnlineCodeProbe,
    RidgeClassProbe,
    RidgeProbe,
    known_probes,
)  # fmt: skip

EVERY = [
    LinearProbe(), RidgeProbe(), RidgeClassProbe(), NeighboursProbe(neighbours=3), NeighboursNumberProbe(neighbours=3),
    MLPProbe(hidden=8, passes=600), MLPNumberProbe(hidden=8, passes=600), OnlineCodeProbe(),
]  # fmt: skip


@parametrize_with_checks(EVERY)
def test_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


def test_every_registered_probe_says_what_it_is_and_makes_what_it_says():
    for name, probe in PROBES.items():
        assert name == probe.name
        assert all((probe.title, probe.unit, probe.baseline, probe.source))
        made = [getattr(probe, kind)() for kind in ("classes", "numbers") if getattr(probe, kind) is not None]
        assert made
        for estimator in made:
            assert type(estimator) in {type(one) for one in EVERY}
            assert probe.online or probe.regularisation in estimator.get_params()
        assert len(set(probe.candidates)) == len(probe.candidates) > 1


def test_nearest_neighbours_give_smoothed_rates_of_the_classes_around():
    X = np.array([[0.0], [1.0], [2.0], [10.0], [11.0]])
    probe = NeighboursProbe(neighbours=3).fit(X, ["a", "a", "b", "b", "c"])
    # the three nearest of 0.4 are a, a and b; the rates of all are 2/5, 2/5 and 1/5
    np.testing.assert_allclose(probe.predict_proba([[0.4]])[0], [2.4 / 4, 1.4 / 4, 0.2 / 4])


def test_losses_are_bits_of_the_true_class_and_squared_errors():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 3)), rng.integers(0, 3, 80)
    for probe in (LinearProbe(), NeighboursProbe(), MLPProbe()):
        fitted = probe.fit(X, y)
        expected = -np.log2(fitted.predict_proba(X)[np.arange(80), y])
        np.testing.assert_allclose(fitted.losses(X, y), expected)
    numbers = RidgeProbe().fit(X, X[:, 0])
    np.testing.assert_allclose(numbers.losses(X, X[:, 0]), (numbers.predict(X) - X[:, 0]) ** 2)


def test_a_class_that_was_not_fitted_costs_forty_bits():
    X = np.random.default_rng(0).normal(size=(20, 2))
    probe = LinearProbe().fit(X, np.arange(20) % 2)
    assert probe.losses(X[:1], [7])[0] == pytest.approx(np.log2(1e12))


def test_a_linear_fit_that_is_cut_short_says_so():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5))
    with pytest.warns(
        ConvergenceWarning, match=r"stopped after 2 iterations .* Give a larger penalty or more max_iter"
    ):
        LinearProbe(1e-6, max_iterations=2).fit(X, X[:, 0] > 0)


@pytest.mark.parametrize("names", [[], "linear", ["linaer"]])
def test_unknown_probes_are_refused_by_name(names):
    with pytest.raises(ValueError, match=r"Choose from linear, ridge, mlp, neighbours, online_code"):
        known_probes(names)


def test_a_probe_refuses_labels_that_it_does_not_take():
    with pytest.raises(ValueError, match=r"'linear' takes no labels that are numbers. Choose 'ridge'"):
        PROBES["linear"].estimator("numbers")
