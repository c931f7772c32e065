"""What composition does to the sum and the signs of a row: row sum, negative mass and negative share."""

from __future__ import annotations

from math import inf

from torch import Tensor

from probes.metrics.blocks import Block
from probes.metrics.kinds import HeadMetric
from probes.metrics.spread import absolute_shares


def _sum(weights_NTS: Tensor, block: Block) -> Tensor:
    return weights_NTS.sum(-1)


def _negative(weights_NTS: Tensor, block: Block) -> Tensor:
    return (-weights_NTS).clamp(min=0).sum(-1)


def _negative_share(weights_NTS: Tensor, block: Block) -> Tensor:
    return (absolute_shares(weights_NTS) * (weights_NTS < 0)).sum(-1)


ROW_SUM = HeadMetric(
    name="row_sum",
    title="Row sum",
    unit="weight",
    definition=(
        "Mean over all queries of sum_j a(i, j). 1 for a raw pattern; a composed row may sum to anything, since "
        "nothing renormalises after post-mixing."
    ),
    ranges={"raw": (1.0, 1.0), "composed": (-inf, inf)},
    rows=_sum,
)

NEGATIVE_MASS = HeadMetric(
    name="negative_mass",
    title="Negative mass",
    unit="weight",
    definition=(
        "Mean over all queries of sum_j max(0, -a(i, j)): how much weight subtracts values. 0 for a raw pattern. Our "
        "definition for signed maps."
    ),
    ranges={"raw": (0.0, 0.0), "composed": (0.0, inf)},
    rows=_negative,
)

NEGATIVE_SHARE = HeadMetric(
    name="negative_share",
    title="Negative share",
    unit="share",
    definition=(
        "Mean over all queries of sum_j max(0, -a(i, j)) / sum_j |a(i, j)|: the negative part of the size of a row, 0 "
        "where a row is zeros. 0 for a raw pattern. Our definition for signed maps."
    ),
    ranges={"raw": (0.0, 0.0), "composed": (0.0, 1.0)},
    rows=_negative_share,
)
