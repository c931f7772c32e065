"""Rows in chunks, whose moments add up: every training set made of chunks is standardised and diagonalised at once.

A fold of a cross-validation, or a block of an online code, is a chunk; a training set is some of the chunks.
Axes: C chunk, S training set, D feature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

ROWS_AT_ONCE = 4096
"""Rows of a chunk that are worked on together, so that their scores stay in the cache."""
NO_VARIANCE = 1e-10
"""A feature that varies less than this share of its variance over all rows is constant in a training set."""


@dataclass(frozen=True)
class TrainingSets:
    """Some unions of chunks: how each is standardised, and its correlation matrix as eigenvalues and eigenvectors.

    member: bool [S, C]. rows: how many, [S]. mean, scale: [S, D], scale 1 for a constant feature. values: [S, D] and
    vectors: [S, D, D], one eigenvector a column.
    """

    member: Tensor
    rows: Tensor
    mean: Tensor
    scale: Tensor
    values: Tensor
    vectors: Tensor


class ChunkedRows:
    """A matrix cut into chunks.

    Args:
        X: [row, feature].
        chunks: the chunk of each row, [row], numbered from 0; None = one chunk.
        dtype: what products over rows are computed in; moments are always float64.
    """

    def __init__(self, X: NDArray, chunks: NDArray[np.intp] | None = None, dtype: torch.dtype = torch.float64):
        self.chunk_of_row = np.zeros(len(X), dtype=np.intp) if chunks is None else np.asarray(chunks)
        wide = np.asarray(X, dtype=np.float64)
        # every training set has its own mean and scale; this one only keeps products well scaled
        self.shift, spread = wide.mean(0), wide.std(0)
        self.unit = np.where(spread > 1e-12 * np.abs(self.shift), spread, 1.0)
        self.order = np.argsort(self.chunk_of_row, kind="stable")
        self.sizes = np.bincount(self.chunk_of_row)
        scaled = torch.from_numpy((wide[self.order] - self.shift) / self.unit)
        parts = scaled.split(self.sizes.tolist())
        self.counts = torch.tensor(self.sizes, dtype=torch.float64)
        self.sums = torch.stack([part.sum(0) for part in parts])
        self.grams = torch.stack([part.mT @ part for part in parts])
        self.chunks = [part.to(dtype) for part in parts]
        self.dtype = dtype

    def cut(self, values: ArrayLike) -> list[Tensor]:
        """A number or vector for each row, [row, ...], chunk by chunk."""
        return list(torch.from_numpy(np.asarray(values)[self.order]).split(self.sizes.tolist()))

    def join(self, chunks: Sequence[Tensor]) -> NDArray:
        """What was cut, or computed for each chunk, [row, ...] in the order of the rows."""
        joined = torch.cat(list(chunks)).numpy()
        out = np.empty_like(joined)
        out[self.order] = joined
        return out

    def pieces(self) -> Iterator[tuple[int, slice, Tensor]]:
        """(chunk, rows of the chunk, these rows [row, D]), a bounded number of rows at a time."""
        for number, chunk in enumerate(self.chunks):
            for start in range(0, len(chunk), ROWS_AT_ONCE):
                rows = slice(start, min(start + ROWS_AT_ONCE, len(chunk)))
                yield number, rows, chunk[rows]

    def training_sets(self, member: Tensor) -> TrainingSets:
        """Moments of unions of chunks; member is bool [S, C]."""
        weights = member.double()
        rows = weights @ self.counts
        mean = weights @ self.sums / rows[:, None]
        second = torch.einsum("sc,cde->sde", weights, self.grams) / rows[:, None, None]
        covariance = second - mean[:, :, None] * mean[:, None]
        variance = covariance.diagonal(dim1=1, dim2=2)
        scale = torch.where(variance > NO_VARIANCE, variance, 1.0).sqrt()
        values, vectors = torch.linalg.eigh(covariance / (scale[:, :, None] * scale[:, None]))
        parts = (part.to(self.dtype) for part in (rows, mean, scale, values.clamp(min=0.0), vectors))
        return TrainingSets(member, *parts)
