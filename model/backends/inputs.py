"""What composed attention reads, in the layout in which blocks of maps are mixed fastest. Imports torch alone.

Axes: B batch, T query, S key, H all heads, G group, N source head and M target head within a group, R rank,
K d_head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.backends.blocks import Block
from model.mixing import Mixing, static_blocks


class SiteFactors(NamedTuple):
    """One site's mixing, or the gradients of it; None where the site lacks a part.

    query_matrix: base + Q(i), [B, T, G, N, M]; None = the identity.
    key_down, key_up: [B, R, G, N, S]. key_gate: [B, G, N, S]. All three or none.
    """

    query_matrix: Tensor | None = None
    key_down: Tensor | None = None
    key_up: Tensor | None = None
    key_gate: Tensor | None = None

    def block(self, cut: Block) -> SiteFactors:
        """The factors of a block's sequences, queries and keys, as views."""
        matrix = None if self.query_matrix is None else self.query_matrix[cut.batch, cut.queries]
        return SiteFactors(matrix, *(None if part is None else part[cut.batch, ..., cut.keys] for part in self[1:]))

    def padded(self, queries: int, keys: int) -> SiteFactors:
        """With so many more queries and keys, whose factors are zero."""
        matrix = None if self.query_matrix is None else lengthened(self.query_matrix, 1, queries)
        return SiteFactors(matrix, *(None if part is None else lengthened(part, -1, keys) for part in self[1:]))

    def add_(self, other: SiteFactors) -> None:
        """Add part by part, in place."""
        for own, added in zip(self, other, strict=True):
            if own is not None and added is not None:
                own.add_(added)


class Inputs(NamedTuple):
    """All positions or one block of them, or the gradients of it.

    q: [B, T, H, K], divided by sqrt(d_head). k, v: [B, S, H, K]. At least one site mixes.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    pre: SiteFactors
    post: SiteFactors

    @property
    def groups(self) -> int:
        """G, which the maps' layout needs."""
        for matrix, _, _, gate in (self.pre, self.post):
            if matrix is not None or gate is not None:
                return gate.shape[1] if matrix is None else matrix.shape[2]  # type: ignore[union-attr]
        raise ValueError("Neither site mixes heads: this is plain attention, use scaled_dot_product_attention.")

    def flat(self) -> tuple[Tensor | None, ...]:
        """The tensors one by one, as an autograd function takes them."""
        return self.q, self.k, self.v, *self.pre, *self.post

    @classmethod
    def from_flat(cls, flat: Sequence[Tensor | None]) -> Inputs:
        q, k, v, *factors = flat
        return cls(q, k, v, SiteFactors(*factors[:4]), SiteFactors(*factors[4:]))  # type: ignore[arg-type]

    def map(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """Every tensor passed through a function."""
        return Inputs.from_flat([None if part is None else change(part) for part in self.flat()])

    def block(self, cut: Block) -> Inputs:
        """The inputs of one block, as views."""
        q, k, v = self.q[cut.batch, cut.queries], self.k[cut.batch, cut.keys], self.v[cut.batch, cut.keys]
        return Inputs(q, k, v, self.pre.block(cut), self.post.block(cut))

    def padded(self, queries: int, keys: int) -> Inputs:
        """With so many more queries and keys, all zero."""
        q, k, v = lengthened(self.q, 1, queries), lengthened(self.k, 1, keys), lengthened(self.v, 1, keys)
        return Inputs(q, k, v, self.pre.padded(queries, keys), self.post.padded(queries, keys))


def block_inputs(q_BTHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, pre: Mixing, post: Mixing) -> Inputs:
    """Attention's arguments as Inputs, in float32 (float64 for float64); differentiable, static W included."""
    batch, queries, _, d_head = q_BTHK.shape
    wide = torch.float64 if q_BTHK.dtype == torch.float64 else torch.float32
    return Inputs(
        q=(q_BTHK.to(wide) * d_head**-0.5).contiguous(),
        k=k_BSHK.to(wide).contiguous(),
        v=v_BSHK.to(wide).contiguous(),
        pre=_site_factors(pre.map(lambda factor: factor.to(wide)), batch, queries),
        post=_site_factors(post.map(lambda factor: factor.to(wide)), batch, queries),
    )


def lengthened(x: Tensor, axis: int, more: int) -> Tensor:
    """x with so many zeros (False) more at the end of an axis."""
    after = x.ndim - 1 - axis % x.ndim
    return F.pad(x, (0, 0) * after + (0, more)) if more else x


def query_matrices(mixing: Mixing, batch: int, queries: int) -> Tensor | None:
    """base + Q(i) of every query, [B, T, G, N, M], or None where that is the identity."""
    like = mixing.query_gate if mixing.static is None else mixing.static
    if like is None:
        return None
    size = mixing.n_heads // mixing.groups
    base = torch.eye(size, dtype=like.dtype, device=like.device)
    if mixing.static is not None:
        base = base + static_blocks(mixing)
    if mixing.query_down is None or mixing.query_up is None or mixing.query_gate is None:
        return base.expand(batch, queries, mixing.groups, size, size)
    down, up = _with_groups(mixing.query_down, mixing), _with_groups(mixing.query_up, mixing)
    return base + down.mT @ up + torch.diag_embed(mixing.query_gate.unflatten(-1, (mixing.groups, size)))


def _site_factors(mixing: Mixing, batch: int, queries: int) -> SiteFactors:
    matrix = query_matrices(mixing, batch, queries)
    if mixing.key_down is None or mixing.key_up is None or mixing.key_gate is None:
        return SiteFactors(matrix)
    down, up = _with_groups(mixing.key_down, mixing), _with_groups(mixing.key_up, mixing)  # [B, S, G, R, N]
    gate = mixing.key_gate.unflatten(-1, (mixing.groups, -1))
    keys_last = down.permute(0, 3, 2, 4, 1), up.permute(0, 3, 2, 4, 1), gate.permute(0, 2, 3, 1)
    return SiteFactors(matrix, *(part.contiguous() for part in keys_last))


def _with_groups(factor: Tensor, mixing: Mixing) -> Tensor:
    return factor.unsqueeze(2) if mixing.groups == 1 else factor
