"""Intervals cover and tests err at their stated rates, where tokens of a document are alike."""

import numpy as np
import pytest
from scipy import stats

from probes.estimators import RidgeClassProbe
from probes.probing import probe_cells
from probes.probing.resampling import holm
from tests.probing_data import against, cell

REPETITIONS = 200
DOCUMENTS, TOKENS, FEATURES = 40, 9, 3


def draw(documents, rng):
    """Two cells that say equally much of a label; how noisy they are is a matter of the document."""
    document = np.repeat(np.arange(documents), TOKENS)
    signal = rng.normal(size=(len(document), FEATURES))
    easy = rng.exponential(size=documents)[document, None]
    y = (signal.sum(1) > 0).astype(int)
    first, second = (signal * easy + rng.normal(size=signal.shape) for _ in range(2))
    return document, first, second, y


@pytest.fixture(scope="module")
def simulated():
    """For each repetition the rows of the table, and the accuracy on new documents of a probe fitted on 4 of 5."""
    rng = np.random.default_rng(0)
    _, test_X, _, test_y = draw(2000, rng)
    found = []
    for repetition in range(REPETITIONS):
        documents, X, other, y = draw(DOCUMENTS, rng)
        table = probe_cells(
            [cell(X, random_init=other)], {"y": np.where(y, "up", "down")}, documents, seed=repetition,
            probes=["ridge"], references=["constant", "random_init"],
        )  # fmt: skip
        train = documents < DOCUMENTS * 4 / 5
        truth = RidgeClassProbe().fit(X[train], y[train]).score(test_X, test_y)
        found.append((against(table, "random_init"), truth))
    return found


def between(count, rate):
    """Whether so many of REPETITIONS is what chance would give at this rate, but for 1 in 1000."""
    low, high = stats.binom.interval(0.999, REPETITIONS, rate)
    return low <= count <= high


def test_intervals_cover_at_the_stated_rate(simulated):
    truth = np.mean([accuracy for _, accuracy in simulated])
    covered = sum(row.low <= truth <= row.high for row, _ in simulated)
    assert between(covered, 0.95), f"{covered} of {REPETITIONS}"
    assert np.mean([row.value for row, _ in simulated]) == pytest.approx(truth, abs=0.01)


def test_intervals_of_independent_tokens_would_not_cover(simulated):
    """The same half width that a binomial of all tokens gives: documents are what must be resampled."""
    truth = np.mean([accuracy for _, accuracy in simulated])
    covered = 0
    for row, _ in simulated:
        half = 1.96 * np.sqrt(row.value * (1 - row.value) / row.tokens)
        covered += abs(row.value - truth) <= half
    assert not between(covered, 0.95), f"{covered} of {REPETITIONS}"


def test_intervals_of_differences_cover_and_tests_err_at_the_stated_rate(simulated):
    """The two cells say equally much, so the truth is 0 and every small p is an error."""
    covered = sum(row.difference_low <= 0 <= row.difference_high for row, _ in simulated)
    assert between(covered, 0.95), f"{covered} of {REPETITIONS}"
    for level in (0.05, 0.2):
        errors = sum(row.p <= level for row, _ in simulated)
        assert between(errors, level), f"{errors} of {REPETITIONS} at {level}"


def test_holm_keeps_the_chance_of_any_false_finding():
    """Of ten true nulls and two false ones, in many draws."""
    rng = np.random.default_rng(1)
    false = 0
    for _ in range(REPETITIONS):
        p = np.concatenate([rng.uniform(size=10), rng.uniform(size=2) * 1e-6])
        adjusted = holm(p)
        false += bool((adjusted[:10] <= 0.2).any())
        assert (adjusted[10:] < 1e-4).all()
    assert between(false, 0.2), f"{false} of {REPETITIONS}"
