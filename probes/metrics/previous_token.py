"""Previous-token weight."""

from __future__ import annotations

from torch import Tensor

from probes.metrics.blocks import Block
from probes.metrics.kinds import WEIGHT_RANGES, HeadMetric, all_but_the_first


def _rows(weights_NTS: Tensor, block: Block) -> Tensor:
    return (weights_NTS * (block.back_TS == 1)).sum(-1)


PREVIOUS_TOKEN = HeadMetric(
    name="previous_token",
    title="Previous-token weight",
    unit="weight",
    definition=(
        "Mean over queries i >= 1 of a(i, i-1), the weight on the token just before. Composed weights are taken as "
        "they are, with their sign: what multiplies that token's value. Source: Olsson et al. 2022, arXiv 2209.11895."
    ),
    ranges=WEIGHT_RANGES,
    rows=_rows,
    counted=all_but_the_first,
    needs="a second token",
)
