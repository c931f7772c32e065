"""Composed attention as the paper's pseudo-code has it: one einsum a step over whole maps. The baseline of speed.

Written from the formulas of arXiv 2405.08553, section 2. Axes: B batch, T query, S key, H head, R rank, K d_head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.mixing import Mixing


def einsum_attention(
    q_BTHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, pre: Mixing, post: Mixing, visible_keys: int | None = None
) -> Tensor:
    """Causal composed attention of one group of heads without a static branch: z [batch, pos, head, d_head].

    A window of visible_keys is a mask, as published: it saves nothing.
    """
    T, S = q_BTHK.shape[1], k_BSHK.shape[1]
    scores = torch.einsum("bthk,bshk->bhts", q_BTHK, k_BSHK) * q_BTHK.shape[-1] ** -0.5
    scores = einsum_compose(scores, pre)
    hidden = torch.ones(T, S, dtype=torch.bool, device=scores.device).triu(1)
    if visible_keys is not None:
        hidden |= torch.ones_like(hidden).tril(-visible_keys)
    pattern = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("bhts,bshk->bthk", einsum_compose(pattern, post), v_BSHK)


def einsum_compose(maps_BHTS: Tensor, mixing: Mixing) -> Tensor:
    """The maps, plus what the query's and the key's low-rank matrices and gates make of them."""
    query_channels = torch.einsum("bhts,btrh->brts", maps_BHTS, mixing.query_down)
    key_channels = torch.einsum("bhts,bsrh->brts", maps_BHTS, mixing.key_down)
    return (
        maps_BHTS
        + torch.einsum("brts,btrh->bhts", query_channels, mixing.query_up)
        + torch.einsum("brts,bsrh->bhts", key_channels, mixing.key_up)
        + torch.einsum("bhts,bth->bhts", maps_BHTS, mixing.query_gate)
        + torch.einsum("bhts,bsh->bhts", maps_BHTS, mixing.key_gate)
    )
