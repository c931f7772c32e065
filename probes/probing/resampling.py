"""Intervals and tests over documents, and the correction for looking at many cells.

Axes: D document, B resample.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from probes.probing.label import Label
from probes.probing.scores import Parts, Score

RESAMPLES = 2000


class Resamples:
    """Resampled sets of whole documents, the same for every score of a label, so that differences are paired.

    Args:
        documents: how many there are. counts: how often each is drawn, [B, D].
    """

    def __init__(self, documents: int, seed: int, resamples: int = RESAMPLES):
        rng = np.random.default_rng(seed)
        self.documents = documents
        self.counts = rng.multinomial(documents, np.full(documents, 1 / documents), size=resamples).astype(np.float64)

    def scores(self, score: Score, parts: Parts, label: Label) -> NDArray[np.float64]:
        """The score in each resample, [B]. A class that a resample lacks does not count there."""
        above, below = (self.counts @ part for part in parts)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = np.where(below > 0, above / below, np.nan)
        return np.asarray(score.finish(np.nanmean(ratios, axis=1), label))

    def interval(self, resampled: NDArray[np.float64], confidence: float) -> tuple[float, float]:
        """Expanded percentile interval (Hesterberg 2015, Am. Stat. 69, section 5.3).

        A bootstrap of D documents is too narrow by about sqrt((D - 1) / D) and has normal tails in place of t's;
        wider percentiles make up for both.
        """
        D = self.documents
        tail = stats.norm.cdf(np.sqrt(D / (D - 1)) * stats.t.ppf((1 - confidence) / 2, D - 1))
        low, high = np.quantile(resampled, [tail, 1 - tail])
        return float(low), float(high)


def score_of(score: Score, parts: Parts, label: Label) -> float:
    above, below = (part.sum(0) for part in parts)
    return float(score.finish((above / below).mean(), label))


def improvement_p(score: Score, ours: Parts, reference: Parts, label: Label) -> float:
    """One-sided p of a paired t-test over documents: how likely so large an improvement is where there is none.

    A score is a ratio of sums over documents; the test is of each document's share in the difference of two, linearised
    (as a survey's ratio estimator is), and takes documents as independent. The probes share training folds, which it
    knows nothing of: read p just below a threshold with care.
    """
    sign = -1.0 if score.better == "lower" else 1.0
    if score.name == "r2":
        sign = -1.0  # its parts are errors
    by_document = sign * (_shares(ours) - _shares(reference))
    if len(by_document) < 2 or not by_document.any():
        return 1.0
    if not np.ptp(by_document):
        return 0.0 if by_document[0] > 0 else 1.0
    return float(stats.ttest_1samp(by_document, 0.0, alternative="greater").pvalue)


def _shares(parts: Parts) -> NDArray[np.float64]:
    """Each document's linearised share in the mean ratio, [D]; they sum to it."""
    above, below = parts
    ratio = above.sum(0) / below.sum(0)
    return ((above - ratio * below) / below.sum(0) + ratio / len(above)).mean(1)


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's step-down adjustment (Scand. J. Stat. 6, 1979): the chance of any false finding among all."""
    return multipletests(p, method="holm")[1]


def benjamini_hochberg(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of false findings among those made, at most."""
    return stats.false_discovery_control(p, method="bh")
