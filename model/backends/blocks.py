"""Which queries and keys are computed together, and which of them may look at each other. Imports torch alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from model.functional import visible


@dataclass(frozen=True)
class Block:
    """Sequences, queries and the keys that any of these queries may see; keys outside are never computed."""

    batch: slice
    queries: slice
    keys: slice


def plan(
    batch: int, queries: int, keys: int, visible_keys: int | None, query_start: int,
    *, block_queries: int, block_batch: int, align: int = 1,
) -> Iterator[Block]:  # fmt: skip
    """Cut attention into blocks of at most block_batch sequences and block_queries queries.

    Args:
        align: key ranges start and end at multiples of this (or at the last key), for vector registers.
    """
    for row in range(0, batch, block_batch):
        for first in range(0, queries, block_queries):
            end = min(first + block_queries, queries)
            seen = key_range(query_start + first, query_start + end, visible_keys)
            start, stop = seen.start // align * align, min(keys, -(-seen.stop // align) * align)
            yield Block(slice(row, min(row + block_batch, batch)), slice(first, end), slice(start, stop))


def key_range(first_query: int, end_query: int, visible_keys: int | None) -> slice:
    """The keys that any of the queries first..end-1 may see."""
    start = 0 if visible_keys is None else max(0, first_query - visible_keys + 1)
    return slice(start, end_query)


def block_visibility(block: Block, visible_keys: int | None, query_start: int, key_mask_BS: Tensor | None,
                     device: torch.device) -> Tensor:  # fmt: skip
    """Which keys of a block each of its queries may attend to, bool [batch or 1, query, key]."""
    queries = torch.arange(query_start + block.queries.start, query_start + block.queries.stop, device=device)
    seen = visible(queries, torch.arange(block.keys.start, block.keys.stop, device=device), visible_keys)[None]
    return seen if key_mask_BS is None else seen & key_mask_BS[block.batch, None, block.keys]


def visible_pairs(queries: int, visible_keys: int | None, query_start: int) -> int:
    """How many pairs of a query and a key that it may see there are in one sequence."""

    def up_to(position: int) -> int:
        growing = position if visible_keys is None else min(position, visible_keys)
        return growing * (growing + 1) // 2 + (position - growing) * (visible_keys or 0)

    return up_to(query_start + queries) - up_to(query_start)
