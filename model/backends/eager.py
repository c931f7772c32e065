"""Composed attention in eager PyTorch, a block of queries at a time. Imports torch alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.functional import masked_softmax, visible
from model.mixing import Mixing, compose

MAP_ELEMENTS = 2**22
"""How many cells of all heads' maps one block of queries may hold: 16 MiB in float32."""


def eager_attention(
    q_BTNK: Tensor, k_BSNK: Tensor, v_BSNK: Tensor, pre: Mixing, post: Mixing,
    visible_keys: int | None, query_start: int, key_mask_BS: Tensor | None,
) -> Tensor:  # fmt: skip
    """See composed_attention. Keys after a block's last query or before its window are never computed."""
    B, T, N, _ = q_BTNK.shape
    block = max(1, min(T, MAP_ELEMENTS // max(1, B * N * k_BSNK.shape[1])))
    # one block needs no recomputation: its maps are as small as a block may be
    recompute = torch.is_grad_enabled() and block < T
    out = []
    for first in range(0, T, block):
        last = min(first + block, T)
        keys = key_range(query_start + first, query_start + last, visible_keys)
        arguments = (
            q_BTNK[:, first:last], k_BSNK[:, keys], v_BSNK[:, keys],
            pre.cut(slice(first, last), keys), post.cut(slice(first, last), keys),
            visible_keys, query_start + first - keys.start, None if key_mask_BS is None else key_mask_BS[:, keys],
        )  # fmt: skip
        z = checkpoint(_attend, *arguments, use_reentrant=False) if recompute else _attend(*arguments)
        out.append(z)
    return out[0] if len(out) == 1 else torch.cat(out, dim=1)


def key_range(first_query: int, end_query: int, visible_keys: int | None) -> slice:
    """The keys that any of the queries first..end-1 may see."""
    start = 0 if visible_keys is None else max(0, first_query - visible_keys + 1)
    return slice(start, end_query)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, pre: Mixing, post: Mixing,
    visible_keys: int | None, query_start: int, key_mask: Tensor | None,
) -> Tensor:  # fmt: skip
    seen = visibility(q.shape[1], k.shape[1], visible_keys, query_start, key_mask, q.device)
    if pre.is_identity and post.is_identity:
        # a row that sees no key (padding) sees all of them and is then zeroed: SDPA would give NaN gradients
        dead = ~seen.any(-1, keepdim=True)
        z = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=seen | dead
        )
        return z.masked_fill(dead, 0.0).transpose(1, 2)
    raw = attention_scores(q, k)
    scores = compose(raw, in_dtype(pre, raw)).masked_fill(~seen, float("-inf"))
    pattern = compose(masked_softmax(scores), in_dtype(post, raw))
    return torch.einsum("bnts,bsnk->btnk", pattern.to(v.dtype), v)


def visibility(
    queries: int, keys: int, visible_keys: int | None, query_start: int, key_mask: Tensor | None, device: torch.device
) -> Tensor:
    """Which keys each query may attend to, bool [batch or 1, 1, query, key]."""
    query_positions = torch.arange(query_start, query_start + queries, device=device)
    seen = visible(query_positions, torch.arange(keys, device=device), visible_keys)[None, None]
    return seen if key_mask is None else seen & key_mask[:, None, None, :]


def attention_scores(q_BTNK: Tensor, k_BSNK: Tensor) -> Tensor:
    """Raw scores q . k / sqrt(d_head) of all pairs, masked nowhere, [B, N, T, S] in at least float32."""
    scores = torch.einsum("btnk,bsnk->bnts", q_BTNK * q_BTNK.shape[-1] ** -0.5, k_BSNK)
    return scores if scores.dtype == torch.float64 else scores.float()


def in_dtype(mixing: Mixing, like: Tensor) -> Mixing:
    """The factors in the maps' dtype, so that mixing runs in at least float32."""
    return mixing.map(lambda factor: factor.to(like.dtype))
