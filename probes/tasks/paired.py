"""Two models on the same task rows: how their accuracies differ, and how likely so large a difference is by chance."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from probes.per_sequence import PerSequence
from probes.tasks.scores import OVERALL, TaskScores, groups, right_by_row

FLIPS = 9999


def compare_scores(one: TaskScores, other: TaskScores, by: str = "family", seed: int = 0) -> pd.DataFrame:
    """How much more often the first model is right than the second, by family, rule or line, and overall.

    Returns:
        A row for each group; columns answers, difference (share of answers, one minus other), low and high (95%
        bootstrap interval over rows), only_one and only_other (answers that one of the two alone got right), p
        (two-sided test that flips the signs of the rows' differences; exact up to 13 rows that differ), p_holm (after
        Holm's correction for the groups; overall is no group).
    Raises:
        ValueError: scores of other rows, or an unknown grouping.
    """
    first, second = one.each(by), other.each(by)
    same = ["row", "line", "task_id", "text"]
    if not first[same].equals(second[same]):
        raise ValueError("The two scores are of different rows. Score both models on the same rows.")
    first["other"] = second.right
    found = {name: _difference(first[first.group == name], seed) for name in groups(first, by)}
    table = pd.DataFrame(found | {OVERALL: _difference(first, seed)}).T
    table["p_holm"] = [*_holm(table.p[:-1].to_numpy()), table.p[OVERALL]]
    return table.astype({"answers": int, "only_one": int, "only_other": int})


def _difference(group: pd.DataFrame, seed: int) -> dict[str, float]:
    found = right_by_row(group).minus(right_by_row(group.assign(right=group.other)))
    low, high = found.interval(seed=seed)
    return {
        "answers": len(group), "difference": found.mean, "low": low, "high": high,
        "only_one": (group.right & ~group.other).sum(), "only_other": (~group.right & group.other).sum(),
        "p": sign_flip_p(found, seed),
    }  # fmt: skip


def sign_flip_p(found: PerSequence, seed: int = 0) -> float:
    """How often rows whose differences had either sign alike would differ as much in sum."""
    differing = found.sums[found.sums != 0]  # rows without a difference change no sum
    if len(differing) < 2:
        return 1.0
    rng = np.random.default_rng(seed)
    test = stats.permutation_test(
        (differing,), _sum, permutation_type="samples", vectorized=True, n_resamples=FLIPS, rng=rng
    )
    return float(test.pvalue)


def _sum(values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return values.sum(axis)


def _holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    from statsmodels.stats.multitest import multipletests  # slow to import, and few need it

    return multipletests(p, method="holm")[1]
