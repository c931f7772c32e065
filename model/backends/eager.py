"""Composed attention in eager PyTorch, a block of queries at a time. Imports torch alone."""

from __future__ import annotations

import torch
from torch import Tensor

from model.backends.block_math import attend_block, attend_block_backward
from model.backends.blockwise import Schedule, attend_blockwise
from model.backends.inputs import block_inputs
from model.functional import visible
from model.mixing import Mixing

BLOCK_CELLS = {"cpu": 2**19}
"""Cells of all heads' maps in one block, by device: 2 MiB in float32 on a CPU, so that a block's maps stay in cache."""

OTHER_BLOCK_CELLS = 2**24
"""The same on accelerators, where a block must keep many thousand threads busy."""


def eager_attention(
    q_BTNK: Tensor, k_BSNK: Tensor, v_BSNK: Tensor, pre: Mixing, post: Mixing,
    visible_keys: int | None, query_start: int, key_mask_BS: Tensor | None, block_queries: int | None = None,
) -> Tensor:  # fmt: skip
    """See composed_attention. Keys after a block's last query or before its window are never computed."""
    T, N = q_BTNK.shape[1:3]
    cells = BLOCK_CELLS.get(q_BTNK.device.type, OTHER_BLOCK_CELLS)
    if block_queries is None:
        block_queries = queries_per_block(cells // N, T, k_BSNK.shape[1], visible_keys)
    span = min(k_BSNK.shape[1], block_queries + (visible_keys or k_BSNK.shape[1]))
    schedule = Schedule(
        attend_block, attend_block_backward, visible_keys, query_start, key_mask_BS,
        block_queries=block_queries, block_batch=max(1, cells // (N * block_queries * span)),
    )  # fmt: skip
    return attend_blockwise(block_inputs(q_BTNK, k_BSNK, v_BSNK, pre, post), schedule).to(v_BSNK.dtype)


def queries_per_block(cells: int, queries: int, keys: int, visible_keys: int | None) -> int:
    """How many queries a block takes so that one head's map has about `cells` cells.

    A local layer's block is no longer than its window (but at least 16): longer ones compute keys that no query sees.
    """
    if visible_keys is None or visible_keys >= keys:
        return max(1, min(queries, cells // keys))
    longest = max(16, visible_keys)
    return max(1, min(queries, longest, cells // (longest + visible_keys)))


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
