"""Classes that follow from a column: made on reading, so that their edges may depend on the whole store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probes.store.manifest import DerivedLabel

HALF = 2**16


def derive(label: DerivedLabel, values: NDArray[Any]) -> pd.Categorical:
    """The class of each value; missing where the value is NaN or negative (there is no next token)."""
    numbers = values.astype(np.float64)
    codes = np.searchsorted(np.asarray(label.edges), numbers, side="right")
    return pd.Categorical.from_codes(
        np.where(np.isnan(numbers) | (numbers < 0), -1, codes), categories=list(label.classes), ordered=True
    )


def exact_quantiles(columns: Callable[[], Iterable[NDArray[np.float32]]], shares: Sequence[float]) -> tuple[float, ...]:
    """Quantiles of a column too long for memory: the smallest value with at least this share at or below it.

    Non-negative float32 numbers are in the order of their bits, so a histogram of the upper 16 bits finds where each
    quantile lies, and one of the lower 16 there finds it exactly.

    Args:
        columns: called twice, gives the column in parts; NaN and negative values do not count.
    Returns:
        One value for each share; () where nothing counts.
    """
    upper = np.zeros(HALF, np.int64)
    for bits in map(_bits, columns()):
        upper += np.bincount(bits >> 16, minlength=HALF)
    total, running = int(upper.sum()), np.cumsum(upper)
    if not total:
        return ()
    ranks = [max(1, int(np.ceil(share * total))) for share in shares]
    buckets = [int(np.searchsorted(running, rank)) for rank in ranks]
    lower = {bucket: np.zeros(HALF, np.int64) for bucket in buckets}
    for bits in map(_bits, columns()):
        for bucket, found in lower.items():
            found += np.bincount(bits[bits >> 16 == bucket] & (HALF - 1), minlength=HALF)
    return tuple(
        _value(bucket, lower[bucket], rank - int(running[bucket] - upper[bucket]))
        for bucket, rank in zip(buckets, ranks, strict=True)
    )


def _bits(values: NDArray[np.float32]) -> NDArray[np.int64]:
    known = np.asarray(values, np.float32)
    known = np.abs(known[~np.isnan(known) & (known >= 0)])  # abs: -0.0 has the sign bit
    return known.view(np.uint32).astype(np.int64)


def _value(bucket: int, lower: NDArray[np.int64], rank: int) -> float:
    low = int(np.searchsorted(np.cumsum(lower), rank))
    return float(np.array([bucket * HALF + low], np.uint32).view(np.float32)[0])
