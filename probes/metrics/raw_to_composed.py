"""How far mixing takes a head's map at each site."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from probes.metrics.blocks import Block
from probes.metrics.kinds import DistanceMetric, RowReader, all_but_the_first


def _divergence(block: Block) -> Tensor:
    unseen_TS = ~block.seen_TS
    log_raw, log_composed = (
        block.map(f"scores_{stage}").masked_fill(unseen_TS, -inf).log_softmax(-1) for stage in ("raw", "composed")
    )
    # where nothing is seen the difference is -inf minus -inf
    difference_NTS = (log_raw - log_composed).masked_fill(unseen_TS, 0.0)
    return (log_raw.exp() * difference_NTS).sum(-1)


def _row_distance(block: Block) -> Tensor:
    return torch.sub(block.map("pattern_composed"), block.map("pattern_raw")).abs().sum(-1)


SCORE_DIVERGENCE = DistanceMetric(
    name="score_divergence",
    title="Divergence of composed from raw scores",
    unit="nats",
    definition=(
        "Mean over queries i >= 1 of KL(softmax(raw scores) || softmax(composed scores)) over the keys that a query "
        "sees, head h against head h. 0 where pre-mixing changes nothing that the softmax notices: a constant added to "
        "a row does not count."
    ),
    ranges={"pre": (0.0, inf)},
    refusals={"post": "composed rows are signed, so KL is undefined. Take pattern_distance."},
    reader=RowReader(("scores_raw", "scores_composed"), _divergence),
    counted=all_but_the_first,
    needs="a second token",
)

PATTERN_DISTANCE = DistanceMetric(
    name="pattern_distance",
    title="Distance of composed from raw pattern",
    unit="weight",
    definition=(
        "Mean over all queries of sum_j |a_composed(i, j) - a_raw(i, j)| (L1), head h against head h; defined for "
        "signed rows of any sum. 0 where post-mixing changes nothing."
    ),
    ranges={"post": (0.0, inf)},
    refusals={"pre": "scores have no scale of their own before the softmax. Take score_divergence."},
    reader=RowReader(("pattern_raw", "pattern_composed"), _row_distance),
)
