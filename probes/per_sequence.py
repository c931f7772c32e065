"""A measure's values by sequence, and how sure their mean is: sequences are independent, their tokens are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 1000


@dataclass(frozen=True)
class PerSequence:
    """A measure's sums over what counted in each sequence, and how many counted; both float64 [sequences]."""

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Over all that counted; nan where nothing did."""
        return _ratio(self.sums, self.counts)

    def minus(self, other: PerSequence) -> PerSequence:
        """The difference of two runs over the same sequences."""
        return PerSequence(self.sums - other.sums, self.counts)

    def interval(self, confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Bootstrap percentile interval of the mean over resampled sequences (Efron 1979); nan with one sequence."""
        kept = self.counts > 0
        if kept.sum() < 2:
            return float("nan"), float("nan")
        found = stats.bootstrap(
            (self.sums[kept], self.counts[kept]), _ratio_along, paired=True, vectorized=True, method="percentile",
            n_resamples=RESAMPLES, confidence_level=confidence, rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
        return float(found.low), float(found.high)

    def wilson(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson interval of a share: of sums right ones among counts; nan where nothing counted.

        Answers of one sequence resemble each other, so the interval is that of fewer, independent ones: as many as
        would be as uncertain as these sequences (design effect; Franco, Little, Louis and Slud 2019, J. Surv. Stat.
        Methodol. 7). One sequence, or a share of 0 or 1, tells nothing of likeness: there all count as independent.
        """
        from statsmodels.stats.proportion import proportion_confint  # slow to import, and few need it

        total = self.counts.sum()
        if not total:
            return float("nan"), float("nan")
        n = total / self._design_effect
        low, high = proportion_confint(self.mean * n, n, 1 - confidence, "wilson")
        return float(low), float(high)

    @property
    def _design_effect(self) -> float:
        """Variance of the share over sequences beside that of as many independent answers; at least 1."""
        share, sequences = self.mean, int((self.counts > 0).sum())
        if sequences < 2 or share in (0.0, 1.0):
            return 1.0
        residuals = self.sums - share * self.counts
        variance = sequences / (sequences - 1) * (residuals**2).sum() / self.counts.sum() ** 2
        return max(1.0, float(variance / (share * (1 - share) / self.counts.sum())))


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> float:
    return float(sums.sum() / counts.sum()) if counts.sum() else float("nan")


def _ratio_along(sums: Any, counts: Any, axis: int = -1) -> Any:
    return sums.sum(axis) / counts.sum(axis)
