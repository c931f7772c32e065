"""The fast fits are the plain ones: the same objectives, the same nested choice, the same held-out predictions."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.estimators import PROBES, LinearProbe, OnlineCodeProbe
from probes.estimators.chunked_rows import ChunkedRows
from probes.estimators.multinomial import Problems, fit_multinomial
from probes.estimators.online_code import block_of_row
from probes.probing.held_out import held_out
from probes.probing.jobs import SHARED
from probes.probing.shared import linear_held_out, ridge_held_out
from probes.probing.shared_neighbours import neighbours_held_out

N, D = 610, 7
FOLDS = 5


@pytest.fixture(scope="module")
def X():
    """Correlated features of unlike scales and offsets, one of them constant."""
    rng = np.random.default_rng(1)
    mixed = rng.normal(size=(N, D)) @ rng.normal(size=(D, D)) * np.logspace(-2, 2, D) + rng.normal(size=D) * 10
    return np.concatenate([mixed, np.full((N, 1), 3.7)], axis=1)


@pytest.fixture(scope="module")
def folds():
    return np.random.default_rng(2).integers(0, FOLDS, N)


def classes(X, K, seed=3, strength=0.8):
    rng = np.random.default_rng(seed)
    Z = StandardScaler().fit_transform(X)
    return (strength * Z @ rng.normal(size=(X.shape[1], K)) + rng.gumbel(size=(len(X), K))).argmax(1)


@pytest.mark.parametrize("penalty", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("K", [2, 4])
def test_the_linear_probe_has_the_coefficients_of_scikit_learn(X, K, penalty):
    y = classes(X, K)
    truth = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (penalty * N), tol=1e-10, max_iter=10_000))
    truth.fit(X, y)
    probe = LinearProbe(penalty, tolerance=1e-8).fit(X, y)
    coef = probe.coef_ if K > 2 else probe.coef_[1:] - probe.coef_[:1]
    expected = truth[-1].coef_ / truth[0].scale_
    np.testing.assert_allclose(coef, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(probe.predict_proba(X), truth.predict_proba(X), rtol=0, atol=1e-5)


def test_problems_solved_together_are_solved_as_if_alone(X, folds):
    """Each its own training set, target and penalty; float64."""
    targets = np.stack([classes(X, 3), classes(X, 3, seed=9)]).astype(np.int64)
    rows = ChunkedRows(X, folds)
    member = torch.ones(4, FOLDS, dtype=torch.bool)
    for s, left_out in enumerate([(), (0,), (1, 3), (2, 3, 4)]):
        member[s, list(left_out)] = False
    chosen = list(itertools.product(range(4), range(2)))
    set_of, target_of = (torch.tensor(column) for column in zip(*chosen, strict=True))
    penalty = torch.logspace(-3, 0, 8, dtype=torch.float64)
    labels = [part.mT.contiguous() for part in rows.cut(targets.T)]
    sets = rows.training_sets(member)
    found = fit_multinomial(Problems(rows, sets, labels, 3, set_of, target_of, penalty), tolerance=1e-8)
    weights, intercepts = found.raw(sets, set_of)
    assert bool(found.converged.all())
    for f, (s, t) in enumerate(chosen):
        inside = member[s].numpy()[folds]
        alone = LinearProbe(float(penalty[f]), tolerance=1e-8).fit(X[inside], targets[t][inside])
        coef = weights[f].numpy() / rows.unit
        np.testing.assert_allclose(coef, alone.coef_, rtol=0, atol=1e-5 * np.abs(alone.coef_).max())
        log_proba = X @ coef.T + (intercepts[f].numpy() - coef @ rows.shift)
        np.testing.assert_allclose(
            np.exp(log_proba - np.logaddexp.reduce(log_proba, 1)[:, None]), alone.predict_proba(X), atol=1e-6
        )


def by_scikit_learn(make, candidates, losses, X, y, folds):
    """Nested cross-validation spelt out: (predictions, chosen) with scikit-learn's estimators."""
    predicted, chosen = np.empty_like(y), []
    for outer in range(FOLDS):
        inner = [fold for fold in range(FOLDS) if fold != outer]
        total = []
        for value in candidates:
            total.append(0.0)
            for scored in inner:
                train = (folds != outer) & (folds != scored)
                fitted = make(value, int(train.sum())).fit(X[train], y[train])
                total[-1] += losses(fitted, X[folds == scored], y[folds == scored])
        chosen.append(candidates[int(np.argmin(total))])
        train = folds != outer
        fitted = make(chosen[-1], int(train.sum())).fit(X[train], y[train])
        predicted[~train] = fitted.predict(X[~train])
    return predicted, tuple(chosen)


def nats(fitted, X, y):
    return -fitted.predict_log_proba(X)[np.arange(len(y)), y].sum()


def indicator_errors(fitted, X, y):
    scores = fitted.decision_function(X)
    scores = np.stack([-scores, scores], 1) if scores.ndim == 1 else scores
    return ((scores - np.where(y[:, None] == np.arange(scores.shape[1]), 1, -1)) ** 2).sum()


MAKE = {
    "linear": lambda value, n: make_pipeline(
        StandardScaler(), LogisticRegression(C=1 / (value * n), tol=1e-8, max_iter=5000)
    ),
    "ridge": lambda value, n: make_pipeline(StandardScaler(), RidgeClassifier(alpha=value * n)),
}


@pytest.mark.parametrize("name", ["linear", "ridge"])
@pytest.mark.parametrize("K", [2, 4])
def test_nested_choice_and_predictions_of_classes_are_those_of_scikit_learn(X, folds, name, K):
    targets = np.stack([classes(X, K), np.random.default_rng(5).permutation(classes(X, K))])
    candidates = PROBES[name].candidates
    found = SHARED[name](X, targets, K, folds, candidates)
    exact = (
        linear_held_out(X, targets, K, folds, candidates, torch.float64, (1e-7, 1e-7)) if name == "linear" else found
    )
    for target, fast, tight in zip(targets, found, exact, strict=True):
        losses = nats if name == "linear" else indicator_errors
        truth, chosen = by_scikit_learn(MAKE[name], candidates, losses, X, target, folds)
        plain = held_out(PROBES[name], "classes", X, target, folds)
        assert tight.chosen == chosen
        assert plain.chosen == chosen
        for one in (tight, plain):
            assert (one.predicted == truth).mean() > 0.999
        # at the tolerance of every day, penalties that are as good as each other may be taken for one another
        assert (fast.predicted == truth).mean() > 0.995
        if name == "linear":
            np.testing.assert_allclose(tight.bits, plain.bits, rtol=0, atol=1e-3)
            assert fast.bits.mean() == pytest.approx(plain.bits.mean(), abs=1e-3)


def test_nested_choice_and_predictions_of_numbers_are_those_of_scikit_learn(X, folds):
    rng = np.random.default_rng(6)
    Z = StandardScaler().fit_transform(X)
    targets = np.stack([Z @ rng.normal(size=D + 1) + 3 * rng.normal(size=N) + 5, rng.normal(size=N)])
    found = ridge_held_out(X, targets, None, folds, PROBES["ridge"].candidates)
    for target, fast in zip(targets, found, strict=True):
        truth, chosen = by_scikit_learn(
            lambda value, n: make_pipeline(StandardScaler(), Ridge(alpha=value * n)),
            PROBES["ridge"].candidates,
            lambda fitted, X, y: ((fitted.predict(X) - y) ** 2).sum(),
            X, target, folds,
        )  # fmt: skip
        assert fast.chosen == chosen
        np.testing.assert_allclose(fast.predicted, truth, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_neighbours_searched_once_are_those_searched_for_each_target(X, folds, kind):
    y = classes(X, 3) if kind == "classes" else StandardScaler().fit_transform(X)[:, 0]
    targets = np.stack([y, np.random.default_rng(5).permutation(y)])
    found = neighbours_held_out(X, targets, 3 if kind == "classes" else None, folds, (64, 16, 4))
    for target, fast in zip(targets, found, strict=True):
        plain = held_out(PROBES["neighbours"], kind, X, target, folds)
        assert fast.chosen == plain.chosen
        np.testing.assert_allclose(fast.predicted, plain.predicted, rtol=0, atol=1e-12)
        if kind == "classes":
            np.testing.assert_allclose(fast.bits, plain.bits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["mlp", "neighbours"])
def test_every_other_probe_never_sees_the_fold_that_it_predicts(X, folds, name):
    """Labels of one fold are replaced: what is predicted for that fold stays."""
    y = classes(X, 3)
    changed = np.where(folds == 2, 0, y)
    before, after = (held_out(PROBES[name], "classes", X, target, folds) for target in (y, changed))
    np.testing.assert_array_equal(before.predicted[folds == 2], after.predicted[folds == 2])
    assert before.chosen[2] == after.chosen[2]
    assert (before.predicted != after.predicted).any()


@pytest.mark.parametrize("name", SHARED)
def test_the_fast_fits_never_see_the_fold_that_they_predict(X, folds, name):
    y = classes(X, 3)
    targets = np.stack([y, np.where(folds == 2, 0, y)])
    before, after = SHARED[name](X, targets, 3, folds, PROBES[name].candidates)
    np.testing.assert_array_equal(before.predicted[folds == 2], after.predicted[folds == 2])
    assert (before.predicted != after.predicted).any()


# -- the online code -------------------------------------------------------------------------------


def test_the_online_code_is_the_sum_of_what_each_block_costs(X):
    """Block by block with scikit-learn's estimator, penalties chosen by what they would have cost so far."""
    K, penalties, fractions = 3, (1.0, 1e-2), (0.1, 0.3, 0.6, 1.0)
    y = classes(X, K)
    probe = OnlineCodeProbe(penalties, fractions, tolerance=1e-8, random_state=4).fit(X, y)
    blocks = block_of_row(np.arange(N), fractions, 4)
    bits = np.full(N, np.log2(K))
    so_far, best = np.zeros(len(penalties)), len(penalties) // 2
    for block in range(1, 4):
        past, here = blocks < block, blocks == block
        cost = []
        for penalty in penalties:
            fitted = MAKE["linear"](penalty, int(past.sum())).fit(X[past], y[past])
            p = fitted.predict_proba(X[here])[np.arange(here.sum()), y[here]]
            cost.append(-np.log2((past.sum() * p + 1 / K) / (past.sum() + 1)))
        bits[here] = cost[best]
        so_far += [c.sum() for c in cost]
        best = int(so_far.argmin())
    np.testing.assert_allclose(probe.row_bits_, bits, rtol=0, atol=1e-3)
    assert probe.codelength_ == pytest.approx(bits.sum(), rel=1e-5)
    assert probe.uniform_codelength_ == pytest.approx(N * np.log2(K))
    assert probe.compression_ == pytest.approx(N * np.log2(K) / bits.sum(), rel=1e-5)
    assert probe.penalty_ == penalties[best]


def test_blocks_of_the_online_code_are_whole_documents():
    documents = np.repeat(np.random.default_rng(0).permutation(90), 11)
    blocks = block_of_row(documents, (0.01, 0.1, 0.5, 1.0), 0)
    assert len(np.unique(np.stack([documents, blocks]), axis=1).T) == 90
    assert np.bincount(blocks).tolist() == [11, 88, 396, 495]


def test_a_code_of_noise_is_as_long_as_the_labels_entropy_and_one_of_signal_is_shorter(X):
    rng = np.random.default_rng(8)
    clear = OnlineCodeProbe().fit(X, classes(X, 4, strength=4.0))
    noise = OnlineCodeProbe().fit(X, rng.integers(0, 4, N))
    assert clear.compression_ > 1.7
    assert 0.9 < noise.compression_ < 1.01
