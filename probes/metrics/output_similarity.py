"""Debiased linear CKA of head outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from model import Capture
from probes.metrics.blocks import Block, LayerOfRun
from probes.metrics.kinds import DiversityMetric
from probes.metrics.pattern_cosine import mean_over_pairs, normalised

FEWEST_TOKENS = 4
"""The unbiased estimator divides by n (n - 3)."""


def head_outputs(run: Capture, layer: int, stage: str) -> Tensor:
    """What each head reads, before W_O: its pattern times its values, float64 [query, head, d_head]."""
    v_SNK, name = run.layers[run.layer_index(layer)].v.double(), f"pattern_{stage}"

    def outputs(block: Block) -> Tensor:
        return torch.einsum("nts,snk->tnk", block.map(name), v_SNK[block.columns])

    return torch.cat(LayerOfRun(run, layer).each(outputs, (name,)))


def debiased_cka(outputs_TNK: Tensor) -> Tensor:
    """Similarity of every two heads' outputs over tokens, [N, N]: 1 for the same up to rotation and scale.

    HSIC_1 (Song et al. 2012) of linear kernels, in feature space. It does not change when a constant is added to a
    head's outputs, and with outputs centred over tokens it is, times n (n - 3),
    ||X^T Y||^2 - n/(n-2) sum_i |x_i|^2 |y_i|^2 + sum_i |x_i|^2 sum_i |y_i|^2 / ((n-1)(n-2)).
    """
    n = len(outputs_TNK)
    centred_TNK = outputs_TNK - outputs_TNK.mean(0)
    cross_NN = torch.stack(
        [torch.einsum("tk,tnl->nkl", one_TK, centred_TNK).square().sum((1, 2)) for one_TK in centred_TNK.unbind(1)]
    )
    squares_TN = centred_TNK.square().sum(-1)
    sums_N = squares_TN.sum(0)
    hsic_NN = cross_NN - n / (n - 2) * squares_TN.T @ squares_TN + sums_N[:, None] * sums_N / ((n - 1) * (n - 2))
    return normalised(hsic_NN)


def _similarity(runs: list[Capture], layer: int, stage: str) -> float:
    tokens = sum(map(len, runs))
    if tokens < FEWEST_TOKENS:
        raise ValueError(
            f"output_similarity needs at least {FEWEST_TOKENS} tokens to be free of bias, got {tokens}. Give more text."
        )
    return mean_over_pairs(debiased_cka(torch.cat([head_outputs(run, layer, stage) for run in runs])))


OUTPUT_SIMILARITY = DiversityMetric(
    name="output_similarity",
    title="Similarity of head outputs (debiased linear CKA), mean over pairs of heads",
    unit="CKA",
    definition=(
        "Mean over pairs g != h of HSIC_1(z_g, z_h) / sqrt(HSIC_1(z_g, z_g) HSIC_1(z_h, z_h)) over the tokens of all "
        "prompts; z_h = sum_j a_h(i, j) v_h(j) before W_O, with the raw or the composed pattern. Linear in the "
        "pattern, so signs need nothing of their own. Unbiased, so around 0 (also below) for independent outputs; 0 "
        "with outputs of zeros. Sources: Kornblith et al. 2019, arXiv 1905.00414; Song et al. 2012, JMLR 13."
    ),
    ranges={"raw": (-1.0, 1.0), "composed": (-1.0, 1.0)},
    value=_similarity,
    baseline=1.0,
)
