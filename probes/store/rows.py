"""Which rows of which shard a selection of a store's rows means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Rows = slice | Sequence[int] | NDArray[Any] | None
"""Rows of a store: a slice, indices in any order, a mask of all rows; None = all."""


class Piece(NamedTuple):
    """Rows of one shard, and where they stand in the answer."""

    shard: int
    local: slice | NDArray[np.int64]
    place: slice | NDArray[np.int64]


def count(rows: Rows, total: int) -> int:
    """How many rows a selection has."""
    if rows is None or isinstance(rows, slice):
        return len(range(*(rows or slice(None)).indices(total)))
    return len(indices(rows, total))


def pieces(rows: Rows, sizes: Sequence[int]) -> Iterator[Piece]:
    """A selection, shard by shard.

    Args:
        sizes: rows of each shard.
    Raises:
        ValueError: a row that does not exist, or a mask of another length.
    """
    starts = np.cumsum([0, *sizes])
    total = int(starts[-1])
    if rows is None or (isinstance(rows, slice) and rows.step in (None, 1)):
        first, last, _ = (rows or slice(None)).indices(total)
        for shard, (start, size) in enumerate(zip(starts, sizes)):
            low, high = max(first, int(start)), min(last, int(start) + size)
            if low < high:
                yield Piece(shard, slice(low - int(start), high - int(start)), slice(low - first, high - first))
        return
    wanted = np.arange(total)[rows] if isinstance(rows, slice) else indices(rows, total)
    shards = np.searchsorted(starts, wanted, side="right") - 1
    for shard in np.unique(shards):
        place = np.flatnonzero(shards == shard)
        yield Piece(int(shard), wanted[place] - starts[shard], place)


def indices(rows: Sequence[int] | NDArray[Any], total: int) -> NDArray[np.int64]:
    """Indices or a mask as indices from the start."""
    given = np.asarray(rows)
    if given.dtype == bool:
        if given.shape != (total,):
            raise ValueError(f"The mask has shape {given.shape}, the store has {total} rows. Give one bool a row.")
        return np.flatnonzero(given)
    if given.ndim != 1 or (given.size and not np.issubdtype(given.dtype, np.integer)):
        raise ValueError(f"Rows must be a slice, a list of whole numbers or a mask, got {given.dtype} {given.shape}.")
    wanted = given.astype(np.int64)
    outside = wanted[(wanted < -total) | (wanted >= total)]
    if len(outside):
        raise ValueError(f"Row {outside[0]} does not exist: there are {total}, 0 to {total - 1}.")
    return np.where(wanted < 0, wanted + total, wanted)
