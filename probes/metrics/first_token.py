"""First-token mass."""

from __future__ import annotations

from torch import Tensor

from probes.metrics.blocks import Block
from probes.metrics.kinds import WEIGHT_RANGES, HeadMetric, all_but_the_first


def on_first_token(weights_NTS: Tensor, block: Block) -> Tensor:
    """Each query's weight on position 0, [head, query]; 0 where a local layer does not see that far."""
    return weights_NTS[..., 0] * block.seen_TS[:, 0] if block.columns.start == 0 else weights_NTS[..., 0] * 0


FIRST_TOKEN = HeadMetric(
    name="first_token",
    title="First-token mass",
    unit="weight",
    definition=(
        "Mean over queries i >= 1 of a(i, 0), the weight on the first token; 0 for queries of a local layer that no "
        "longer see it. Composed weights are taken with their sign. Source: attention sinks, Xiao et al. 2023, "
        "arXiv 2309.17453."
    ),
    ranges=WEIGHT_RANGES,
    rows=on_first_token,
    counted=all_but_the_first,
    needs="a second token",
)
