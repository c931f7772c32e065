"""Weights times the length of what they carry: a large weight on a value near zero moves nothing."""

from __future__ import annotations

from math import inf

from torch import Tensor

from probes.metrics.blocks import Block
from probes.metrics.first_token import on_first_token
from probes.metrics.kinds import STAGES, HeadMetric, all_but_the_first
from probes.metrics.spread import absolute_shares

SOURCE = "Source: Kobayashi et al. 2020, arXiv 2004.10102; |a| is ours, their weights have no sign."


def _carried(weights_NTS: Tensor, block: Block) -> Tensor:
    """|a(i, j)| * || v(j) W_O ||, [head, query, key]."""
    return weights_NTS.abs() * block.of.value_norms_SN[block.columns].T[:, None]


def _norm(weights_NTS: Tensor, block: Block) -> Tensor:
    return _carried(weights_NTS, block).sum(-1)


def _first_token_share(weights_NTS: Tensor, block: Block) -> Tensor:
    return on_first_token(absolute_shares(_carried(weights_NTS, block)), block)


VALUE_WEIGHTED_NORM = HeadMetric(
    name="value_weighted_norm",
    title="Value-weighted norm",
    unit="residual-stream norm",
    definition=(
        "Mean over all queries of sum_j |a_h(i, j)| * || v_h(j) W_O[h] ||: how much a head moves into the residual "
        "stream, counted before its parts cancel. A composed head h carries the values of target head h. " + SOURCE
    ),
    ranges=dict.fromkeys(STAGES, (0.0, inf)),
    rows=_norm,
)

VALUE_WEIGHTED_FIRST_TOKEN = HeadMetric(
    name="value_weighted_first_token",
    title="First token's share of the value-weighted norm",
    unit="share",
    definition=(
        "Mean over queries i >= 1 of the first token's share of sum_j |a_h(i, j)| * || v_h(j) W_O[h] || (0 where the "
        "sum is): near 0 beside a large first-token mass, the head parks its weight there and moves nothing. " + SOURCE
    ),
    ranges=dict.fromkeys(STAGES, (0.0, 1.0)),
    rows=_first_token_share,
    counted=all_but_the_first,
    needs="a second token",
)
