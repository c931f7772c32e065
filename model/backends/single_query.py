"""Composed attention of one query a sequence, as in cached decoding: few kernels and no copy of a key factor.

With a single query all maps are vectors over keys, so they are kept key-major, [B, S, G, N], as the key factors are
stored. Imports torch alone. Axes: B batch, S key, H all heads, G group, N source head and M target head, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.backends.inputs import query_matrices
from model.mixing import Mixing


def attend_single_query(
    q_B1HK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, pre: Mixing, post: Mixing, key_mask_BS: Tensor | None
) -> Tensor:
    """See composed_attention; every key is visible except where the mask is False. Differentiable."""
    wide = torch.float64 if q_B1HK.dtype == torch.float64 else torch.float32
    q = q_B1HK.to(wide) * q_B1HK.shape[-1] ** -0.5
    raw_BSH = (k_BSHK.to(wide).transpose(1, 2) @ q.permute(0, 2, 3, 1))[..., 0].transpose(1, 2)
    scores_BSH = _mix(raw_BSH, pre.map(lambda factor: factor.to(wide)))
    pattern_BSH = scores_BSH.softmax(1) if key_mask_BS is None else _masked(scores_BSH, key_mask_BS[..., None])
    composed_BSH = _mix(pattern_BSH, post.map(lambda factor: factor.to(wide)))
    z_BH1K = composed_BSH.transpose(1, 2)[:, :, None] @ v_BSHK.to(wide).transpose(1, 2)
    return z_BH1K.transpose(1, 2).to(v_BSHK.dtype)


def _masked(scores_BSH: Tensor, seen_BS1: Tensor) -> Tensor:
    """Softmax over keys; a sequence without a single key gets zeros, and no NaN in its gradient."""
    empty = ~seen_BS1.any(1, keepdim=True)
    return scores_BSH.masked_fill(~(seen_BS1 | empty), float("-inf")).softmax(1).masked_fill(empty, 0.0)


def _mix(maps_BSH: Tensor, mixing: Mixing) -> Tensor:
    if mixing.is_identity:
        return maps_BSH
    maps = maps_BSH.contiguous().unflatten(-1, (mixing.groups, -1))  # [B, S, G, N]
    matrix = query_matrices(mixing, maps.shape[0], 1)  # [B, 1, G, N, M]
    out = maps if matrix is None else (maps.transpose(1, 2) @ matrix[:, 0]).transpose(1, 2)
    if mixing.key_down is None or mixing.key_up is None or mixing.key_gate is None:
        return out.flatten(2)
    out = torch.addcmul(out, maps, mixing.key_gate.unflatten(-1, (mixing.groups, -1)))
    down, up = (f.unflatten(1, (-1, 1)) if mixing.groups == 1 else f for f in (mixing.key_down, mixing.key_up))
    channels = down @ maps[..., None]  # [B, S, G, R, 1]
    for rank in range(up.shape[-2]):
        out.addcmul_(channels[..., rank, :], up[..., rank, :])
    return out.flatten(2)
