"""Off-diagonal mass of the mixing matrices."""

from __future__ import annotations

from model.config import SITES
from probes.metrics.kinds import MixingMetric
from probes.metrics.site_moments import SiteMoments


def _share(moments: SiteMoments) -> float:
    squares_NM = moments.visible_squares
    total = float(squares_NM.sum())
    return 1 - float(squares_NM.trace()) / total if total else 0.0


OFF_DIAGONAL = MixingMetric(
    name="off_diagonal",
    title="Off-diagonal mass of mixing",
    unit="share",
    definition=(
        "Sum over visible pairs of the squares of M's entries off the diagonal, divided by the sum of the squares of "
        "all entries: the share of mixing that passes between different heads. Pairs with large M weigh more."
    ),
    ranges=dict.fromkeys(SITES, (0.0, 1.0)),
    value=_share,
    baseline=0.0,
)
