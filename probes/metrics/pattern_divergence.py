"""Mean pairwise Jensen-Shannon divergence of patterns."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor
from torch.special import entr

from model import Capture
from probes.metrics.blocks import Block, LayerOfRun
from probes.metrics.kinds import DiversityMetric


def jensen_shannon(pattern_NTS: Tensor) -> Tensor:
    """Mean over pairs of heads of the divergence of their rows in nats, [query]. Rows must be probabilities."""
    heads = len(pattern_NTS)
    entropy_NT = entr(pattern_NTS).sum(-1)
    total_T = torch.zeros_like(entropy_NT[0])
    for head in range(heads - 1):
        later = slice(head + 1, None)
        of_mean = entr((pattern_NTS[head] + pattern_NTS[later]) / 2).sum(-1)
        total_T += (of_mean - (entropy_NT[head] + entropy_NT[later]) / 2).sum(0)
    return total_T / (heads * (heads - 1) / 2)


def _divergence(runs: list[Capture], layer: int, stage: str) -> float:
    queries = sum(len(run) - 1 for run in runs)
    if not queries:
        raise ValueError("pattern_divergence needs a second token, and no given prompt has one. Give longer prompts.")

    name = f"pattern_{stage}"

    def divergence(block: Block) -> float:
        # query 0 sees itself alone: its divergence is 0 and it is not counted
        return float(jensen_shannon(block.map(name)).sum())

    return sum(of_block for run in runs for of_block in LayerOfRun(run, layer).each(divergence, (name,))) / queries


PATTERN_DIVERGENCE = DiversityMetric(
    name="pattern_divergence",
    title="Jensen-Shannon divergence of patterns, mean over pairs of heads",
    unit="nats",
    definition=(
        "Mean over queries i >= 1 and pairs g != h of S((a_g + a_h) / 2) - (S(a_g) + S(a_h)) / 2, S the entropy of a "
        "row: 0 for equal rows, ln 2 for rows that share no key. For probabilities only. Source: Lin 1991."
    ),
    ranges={"raw": (0.0, log(2))},
    refusals={
        "composed": "a composed pattern is signed and its rows do not sum to 1. Take stage 'raw', or 'pattern_cosine'."
    },
    value=_divergence,
    baseline=0.0,
)
