"""MDL probe: the bits that it takes to send the labels of known features with a linear probe, block by block.

Voita & Titov 2020 (arXiv 2003.12298), online code: the first block is sent with the uniform code, each further block
with a probe fitted on all blocks before it. A label that is easy to read is cheap early. Blocks are whole documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from probes.estimators.base import ClassProbe
from probes.estimators.chunked_rows import ChunkedRows
from probes.estimators.linear import LinearProbe
from probes.estimators.multinomial import Problems, fit_multinomial

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Ends of the blocks as shares of the rows, those of the paper."""
PENALTIES = (1.0, 3e-2, 1e-3, 3e-5, 1e-6)
"""Candidates of linear probes, per row; the weakest hardly matters with a hundred rows a feature."""


class OnlineCodeProbe(ClassProbe):
    """Online codelength of the labels.

    The penalty is part of the code without being sent: each block uses the one that would have coded all earlier
    blocks best (the middle one at first), which the receiver can work out too. A block's probabilities are mixed with
    the uniform code in proportion rows so far : 1, so that a class not met yet has a codeword.

    Args:
        penalties: to choose from. fractions: ends of the blocks. tolerance: as in LinearProbe. random_state: of the
            order of the documents.
    Attributes:
        codelength_, uniform_codelength_: bits. compression_: uniform / online codelength. row_bits_: [row].
        blocks_: number of blocks. penalty_: the best of all. probe_: the linear probe of all rows, which predicts.
    """

    def __init__(
        self, penalties: Sequence[float] = PENALTIES, fractions: Sequence[float] = FRACTIONS, tolerance: float = 1e-4,
        random_state: int | None = 0,
    ):  # fmt: skip
        self.penalties = penalties
        self.fractions = fractions
        self.tolerance = tolerance
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Code y [row] given X [row, feature].

        Args:
            groups: the document of each row, [row]; None = every row is one.
        Raises:
            ValueError: lengths that differ, numbers that are not finite, or a single class.
        """
        X, codes = self._checked(X, y)
        groups = np.arange(len(X)) if groups is None else np.asarray(groups)
        if len(groups) != len(X):
            raise ValueError(f"groups has {len(groups)} rows, X {len(X)}. Give the document of each row of X.")
        return self._fit_blocks(X, codes, groups)

    def _fit(self, X: NDArray, codes: NDArray[np.intp]) -> Self:
        return self._fit_blocks(X, codes, np.arange(len(X)))

    def _fit_blocks(self, X: NDArray, codes: NDArray[np.intp], groups: NDArray) -> Self:
        blocks = block_of_row(groups, self.fractions, self.random_state)
        rows, K = ChunkedRows(X, blocks), len(self.classes_)
        bits, chosen = online_bits(rows, codes[None], K, self.penalties, self.tolerance)
        self.row_bits_, self.blocks_ = bits[0], len(rows.chunks)
        self.codelength_ = float(self.row_bits_.sum())
        self.uniform_codelength_ = len(X) * float(np.log2(K))
        self.compression_ = self.uniform_codelength_ / self.codelength_
        self.penalty_ = self.penalties[int(chosen[0])]
        self.probe_ = LinearProbe(self.penalty_, self.tolerance).fit(X, codes)
        return self

    def _log_proba(self, X: NDArray) -> NDArray:
        return self.probe_.predict_log_proba(X)


def block_of_row(groups: NDArray, fractions: Sequence[float], seed: int | None) -> NDArray[np.intp]:
    """The block of each row: documents in random order, each in the block in which its first row falls."""
    _, group_of_row, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    before = np.empty(len(sizes), dtype=np.int64)
    before[order] = sizes[order].cumsum() - sizes[order]
    ends = np.maximum(1, np.ceil(np.asarray(fractions) * len(groups)))
    block_of_group = np.searchsorted(ends, before, side="right")
    return np.unique(block_of_group[group_of_row], return_inverse=True)[1]


def online_bits(
    rows: ChunkedRows, targets: NDArray, classes: int, penalties: Sequence[float], tolerance: float
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """(bits of each row under each target [target, row], the number of the penalty that coded each target best).

    Args:
        rows: their chunks are the blocks, in order. targets: classes as numbers from 0, [target, row].
    """
    blocks, n_targets = len(rows.chunks), len(targets)
    labels = [codes_RT.mT.contiguous() for codes_RT in rows.cut(targets.T.astype(np.int64))]
    uniform = float(np.log2(classes))
    out = [torch.full(codes.shape, uniform, dtype=torch.float64) for codes in labels]
    by_penalty = _bits_by_penalty(rows, labels, classes, penalties, tolerance)  # [block - 1][P, target, R]
    total = torch.zeros(len(penalties), n_targets, dtype=torch.float64)
    best = torch.full((n_targets,), len(penalties) // 2)
    every = torch.arange(n_targets)
    for block in range(1, blocks):
        bits = by_penalty[block - 1]
        out[block] = bits[best, every]
        total += bits.sum(-1)
        best = total.argmin(0)
    return rows.join([bits.mT for bits in out]).T, best.numpy()


def _bits_by_penalty(
    rows: ChunkedRows, labels: Sequence[Tensor], classes: int, penalties: Sequence[float], tolerance: float
) -> list[Tensor]:
    """Bits of every block but the first, given those before it, under each penalty: [penalty, target, R] a block."""
    blocks, n_targets = len(rows.chunks), len(labels[0])
    if blocks < 2:
        return []
    sets = rows.training_sets(torch.ones(blocks, blocks).tril(-1)[1:].bool())
    set_of = torch.arange(blocks - 1).repeat_interleave(n_targets)
    target_of = torch.arange(n_targets).repeat(blocks - 1)
    problems = Problems(rows, sets, labels, classes, set_of, target_of, torch.zeros(len(set_of), dtype=torch.float64))
    found: list[list[Tensor]] = [[] for _ in range(blocks - 1)]
    start = None
    for penalty in penalties:
        problems = problems.with_penalty(penalty)
        start = fit_multinomial(problems, start, tolerance)
        weights, intercepts = start.raw(sets, set_of)
        for block in range(1, blocks):
            here = slice((block - 1) * n_targets, block * n_targets)
            scores = weights[here] @ rows.chunks[block].mT + intercepts[here][:, :, None]
            probability = scores.double().softmax(1).gather(1, labels[block][:, None])[:, 0]
            seen = float(rows.counts[:block].sum())
            found[block - 1].append(-((seen * probability + 1 / classes) / (seen + 1)).log2())
    return [torch.stack(by_penalty) for by_penalty in found]
