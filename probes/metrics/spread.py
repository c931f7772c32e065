"""How widely a head spreads its weight: entropy and mean distance, each for probabilities and for signed weights."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from probes.metrics.blocks import Block
from probes.metrics.kinds import STAGES, HeadMetric, all_but_the_first

NO_PROBABILITIES = "a composed pattern is signed and its rows do not sum to 1. Take stage 'raw', or the metric {!r}."


def absolute_shares(weights_NTS: Tensor) -> Tensor:
    """|a| / sum of |a| over keys; all zeros where a row is."""
    sizes_NTS = weights_NTS.abs()
    return sizes_NTS / sizes_NTS.sum(-1, keepdim=True).clamp(min=torch.finfo(sizes_NTS.dtype).tiny)


def _entropy(weights_NTS: Tensor, block: Block) -> Tensor:
    return torch.special.entr(weights_NTS).sum(-1)


def _distance(weights_NTS: Tensor, block: Block) -> Tensor:
    return (weights_NTS * block.back_TS).sum(-1)


ENTROPY = HeadMetric(
    name="entropy",
    title="Entropy",
    unit="nats",
    definition=(
        "Mean over queries i >= 1 of -sum_j a(i, j) ln a(i, j): 0 where a head looks at one token, ln n where it looks "
        "at n alike. For probabilities only; see absolute_entropy."
    ),
    ranges={"raw": (0.0, inf)},
    refusals={"composed": NO_PROBABILITIES.format("absolute_entropy")},
    rows=_entropy,
    counted=all_but_the_first,
    needs="a second token",
)

ABSOLUTE_ENTROPY = HeadMetric(
    name="absolute_entropy",
    title="Entropy of absolute weights",
    unit="nats",
    definition=(
        "Mean over queries i >= 1 of the entropy of |a(i, j)| / sum_k |a(i, k)|: over how many tokens the size of a "
        "row is spread, whatever its signs and its sum (a row of zeros counts as 0). Our definition for signed maps; "
        "on a raw pattern it is the entropy."
    ),
    ranges=dict.fromkeys(STAGES, (0.0, inf)),
    rows=lambda weights_NTS, block: _entropy(absolute_shares(weights_NTS), block),
    counted=all_but_the_first,
    needs="a second token",
)

MEAN_DISTANCE = HeadMetric(
    name="mean_distance",
    title="Mean distance",
    unit="tokens back",
    definition=(
        "Mean over queries i >= 1 of sum_j a(i, j) (i - j): how far back a head looks on average. For probabilities "
        "only; see absolute_distance."
    ),
    ranges={"raw": (0.0, inf)},
    refusals={"composed": NO_PROBABILITIES.format("absolute_distance")},
    rows=_distance,
    counted=all_but_the_first,
    needs="a second token",
)

ABSOLUTE_DISTANCE = HeadMetric(
    name="absolute_distance",
    title="Mean distance of absolute weights",
    unit="tokens back",
    definition=(
        "Mean over queries i >= 1 of sum_j |a(i, j)| (i - j) / sum_k |a(i, k)|: how far back the size of a row lies, "
        "whatever its signs and its sum (a row of zeros counts as 0). Our definition for signed maps; on a raw pattern "
        "it is the mean distance."
    ),
    ranges=dict.fromkeys(STAGES, (0.0, inf)),
    rows=lambda weights_NTS, block: _distance(absolute_shares(weights_NTS), block),
    counted=all_but_the_first,
    needs="a second token",
)
