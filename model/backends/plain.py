"""Attention where no heads are mixed: PyTorch's fused attention, cut into blocks where it would need a large mask.

Imports torch alone. Axes: B batch, T query, S key, N head, K d_head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.backends.blocks import block_visibility, plan

BLOCK_QUERIES = 256


def plain_attention(
    q_BTNK: Tensor, k_BSNK: Tensor, v_BSNK: Tensor, visible_keys: int | None, query_start: int,
    key_mask_BS: Tensor | None, block_queries: int | None = None,
) -> Tensor:  # fmt: skip
    """softmax(q k^T / sqrt(d_head)) v of each head by itself, masked as composed_attention says."""
    (B, T), S = q_BTNK.shape[:2], k_BSNK.shape[1]
    windowed = visible_keys is not None and visible_keys < S
    if key_mask_BS is None and not windowed and T in (1, S):
        return _fused(q_BTNK, k_BSNK, v_BSNK, causal=T > 1)
    size = block_queries or _queries_per_block(visible_keys if windowed else None)
    # whole chunks of keys, joined: slices of the keys would each have a gradient as large as all keys
    k_chunks, v_chunks = k_BSNK.split(size, 1), v_BSNK.split(size, 1)
    out: list[Tensor] = []
    masks: dict[tuple[int, ...], Tensor] = {}
    for cut in plan(B, T, S, visible_keys, query_start, block_queries=size, block_batch=B, align=size):
        chunks = slice(cut.keys.start // size, -(-cut.keys.stop // size))
        rows = q_BTNK[:, cut.queries], torch.cat(k_chunks[chunks], 1), torch.cat(v_chunks[chunks], 1)
        seen = block_visibility(cut, visible_keys, query_start, key_mask_BS, q_BTNK.device)[:, None]
        if key_mask_BS is None:
            # blocks that lie alike share one mask, so that autograd keeps one
            shape = (cut.queries.start - cut.keys.start, *seen.shape)
            out.append(_fused(*rows, mask=masks.setdefault(shape, _additive(seen, q_BTNK.dtype))))
        elif torch.is_grad_enabled() and size < T:
            out.append(checkpoint(_padded_block, *rows, seen, use_reentrant=False))
        else:
            out.append(_padded_block(*rows, seen))
    return out[0] if len(out) == 1 else torch.cat(out, dim=1)


def _queries_per_block(visible_keys: int | None) -> int:
    """Half a window, so that a block computes at most half as many keys again as its queries see."""
    return BLOCK_QUERIES if visible_keys is None else max(16, min(BLOCK_QUERIES, visible_keys // 2))


def _padded_block(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """A block with padding: a query that sees no key gets zeros."""
    # such a row sees every key and is zeroed afterwards: a softmax over nothing has NaN gradients
    empty = ~seen.any(-1, keepdim=True)
    return _fused(q, k, v, mask=_additive(seen | empty, q.dtype)).masked_fill(empty.transpose(1, 2), 0.0)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a query sees a key, -inf elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal).transpose(1, 2)
