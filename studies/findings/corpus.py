"""The rows that every finding is measured on."""

from __future__ import annotations

import random
from collections.abc import Sequence

from model import HookedDCFormer
from probes import MeanMixing
from probes.tasks import TaskRow, generate

SEED = 11
MEASURED, AVERAGED = 200, 100
"""Held-out rows that are measured, and rows of the training split over which mixing is averaged."""


def measured_rows(count: int = MEASURED) -> list[TaskRow]:
    """Held-out rows of all 74 rules."""
    return _drawn("held_out", count)


def mean_mixing(model: HookedDCFormer, count: int = AVERAGED) -> MeanMixing:
    """The mean over rows of the training split, so that nothing measured was averaged."""
    return MeanMixing.over(model, [row.plain_text for row in _drawn("train", count)])


def _drawn(split: str, count: int) -> list[TaskRow]:
    rows: Sequence[TaskRow] = generate(None, -(-count // 74), SEED, split)
    return random.Random(SEED).sample(list(rows), count)
