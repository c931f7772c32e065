"""The weights that the pair starts from: random, with heads that attend to equal tokens and pass on what they see."""

from __future__ import annotations

import torch

from model import HookedDCFormer

VALUES, SHARPNESS = 0.5, 1.3


@torch.no_grad()
def heads_that_copy(model: HookedDCFormer, seed: int) -> None:
    """Change the random weights; both models of the pair are changed alike, and mixing is left as it is.

    With a few million tokens of training, heads of random weights do not come to find what a question asks for. So
    every embedding gets a common part (a head of positions alone has something to read), W_K starts equal to W_Q
    after layer 0, with sharper scores, and the heads of a layer start as W_V W_O = multiples of projections on
    random subspaces. Trockman & Kolter 2023 (arXiv 2305.09828) call such a start mimetic. All of it is then trained.
    """
    generator = torch.Generator().manual_seed(seed)
    width = model.cfg.d_model
    model.embed.W_E.add_(torch.randn(width, generator=generator) * width**-0.5)
    for layer, block in enumerate(model.blocks):
        query, key, value = block.attn.wqkv.weight.chunk(3)
        bases = [
            torch.linalg.qr(torch.randn(width, width, generator=generator))[0] for _ in range(-(-len(value) // width))
        ]
        basis = torch.cat(bases, 1)[:, : len(value)]
        value.copy_(VALUES * basis.T)
        block.attn.wo.weight.copy_(VALUES * basis)
        if layer > 0:
            key.copy_(query)
            block.attn.q_norm.fill_(SHARPNESS)
            block.attn.k_norm.fill_(SHARPNESS)
