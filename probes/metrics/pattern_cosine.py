"""Mean pairwise cosine of patterns."""

from __future__ import annotations

import torch
from torch import Tensor

from model import Capture
from probes.metrics.blocks import Block, LayerOfRun
from probes.metrics.kinds import DiversityMetric


def map_products(runs: list[Capture], layer: int, name: str) -> Tensor:
    """Sum over all visible cells of all captures of map_g * map_h, float64 [head, head]: the stack's Gram matrix."""

    def products(block: Block) -> Tensor:
        stack = block.map(name).flatten(1)
        return stack @ stack.T

    return torch.stack([product for run in runs for product in LayerOfRun(run, layer).each(products, (name,))]).sum(0)


def normalised(products_NN: Tensor) -> Tensor:
    """Cosines from inner products; 0 with a vector of zeros."""
    lengths_N = products_NN.diagonal().clamp(min=0).sqrt()
    return products_NN / (lengths_N[:, None] * lengths_N).clamp(min=torch.finfo(products_NN.dtype).tiny)


def mean_over_pairs(matrix_NN: Tensor) -> float:
    """Mean of the entries off the diagonal."""
    heads = len(matrix_NN)
    return float((matrix_NN.sum() - matrix_NN.trace()) / (heads * (heads - 1)))


def _cosine(runs: list[Capture], layer: int, stage: str) -> float:
    return mean_over_pairs(normalised(map_products(runs, layer, f"pattern_{stage}")))


PATTERN_COSINE = DiversityMetric(
    name="pattern_cosine",
    title="Cosine of patterns, mean over pairs of heads",
    unit="cosine",
    definition=(
        "Mean over pairs g != h of a_g . a_h / (|a_g| |a_h|), each head's pattern one vector over all visible cells of "
        "all prompts. Signs count: two composed heads that cancel have -1. A head of zeros has 0 with every other."
    ),
    ranges={"raw": (0.0, 1.0), "composed": (-1.0, 1.0)},
    value=_cosine,
    baseline=1.0,
)
