"""Effective rank of the stack of score maps."""

from __future__ import annotations

from math import inf

from model import Capture
from probes.metrics.effective_rank import SOURCE, effective_rank
from probes.metrics.kinds import STAGES, DiversityMetric
from probes.metrics.pattern_cosine import map_products


def _rank(runs: list[Capture], layer: int, stage: str) -> float:
    return effective_rank(map_products(runs, layer, f"scores_{stage}"))


SCORE_RANK = DiversityMetric(
    name="score_rank",
    title="Effective rank of the score stack",
    unit="heads",
    definition=(
        "exp of the entropy of the normalised singular values of the matrix [head, visible cells of all prompts] of "
        "scores, raw or composed: 1 where all heads' scores are multiples of one map, at most the number of heads. "
        "Scores are taken as they are, signed and not centred. " + SOURCE
    ),
    ranges=dict.fromkeys(STAGES, (0.0, inf)),
    value=_rank,
    baseline=1.0,
)
