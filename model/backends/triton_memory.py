"""What the Triton kernels of composed attention hold. Imports torch alone, so memory can be planned without Triton."""

from __future__ import annotations

import torch

SCRATCH_BYTES = 2**28
"""Maps of one chunk of queries: large enough that a chunk fills a GPU, small beside any model that needs one."""

TILE = 64
"""Queries and keys of a tile, at the most; each row of it keeps a peak, a sum and a factor in float32."""


def prefill_bytes(
    batch: int, queries: int, keys: int, heads: int, d_head: int, rank: int, *, query_sides: int, key_sides: int,
    dtype: torch.dtype,
) -> int:  # fmt: skip
    """Bytes that one call makes at its peak, its result included.

    Args:
        keys: that the last query may see. query_sides, key_sides: sites that have such factors.
    """
    rows, columns = (-(-number // TILE) * TILE for number in (queries, keys))
    of_map = 4 if dtype == torch.float32 else 2
    one_block = TILE * heads * columns * of_map
    maps = min(batch * heads * rows * columns * of_map, max(SCRATCH_BYTES, one_block))
    tables = batch * heads * (2 * rank + 1) * (query_sides * queries + key_sides * keys) * 4
    return maps + maps // of_map // TILE * 12 + tables + batch * queries * heads * d_head * dtype.itemsize


def single_query_bytes(batch: int, keys: int, heads: int, d_head: int, dtype: torch.dtype) -> int:
    """The same for one query a sequence: scores, and a peak and a sum of at most every eighth key."""
    return batch * heads * (keys * 4 + -(-keys // 8) * 8 + d_head * dtype.itemsize)
