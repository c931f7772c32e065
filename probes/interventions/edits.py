"""Edits of the factors of one site: a branch scaled or replaced, a constant added, for some heads and some tokens.

A low-rank branch is edited through its product down^T up, never through one factor, whose basis means nothing: where
only part of the product changes, channels are added that take the old part away and put the new one in its place.
Axes: B batch, T position, R rank, N head (source), M head (target), G group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.mixing import Mixing, base_matrix


@dataclass(frozen=True)
class Where:
    """The entries of M that are edited: rows, columns, and whose part of M.

    sources, targets: 1 for chosen heads, 0 for others, [H], float64 on the CPU.
    tokens: bool [batch or 1, pos], True at tokens whose part Q(i) or K(j) is edited; None = all.
    """

    sources: Tensor
    targets: Tensor
    tokens: Tensor | None = None

    @property
    def entries(self) -> Tensor:
        """1 at the chosen entries of M, [H, H]."""
        return self.sources[:, None] * self.targets


def factors(mixing: Mixing, branch: str) -> tuple[Tensor, ...]:
    """What a token-dependent branch is made of: (down, up), or (gate,)."""
    side, kind = branch.split("_")
    names = ("gate",) if kind == "gate" else ("down", "up")
    return tuple(getattr(mixing, f"{side}_{name}") for name in names)


def complete(mixing: Mixing, sides: Sequence[str], like_BT: Tensor) -> Mixing:
    """The mixing with factors of every side: zeros where a change before this one took all mixing away.

    Args:
        like_BT: any tensor [batch, pos, ...] of the dtype and on the device of the run.
    """
    heads = (mixing.n_heads,) if mixing.groups == 1 else (mixing.groups, mixing.n_heads // mixing.groups)
    row = (*like_BT.shape[:2], *heads[:-1], 1, heads[-1])
    zeros: dict[str, Tensor] = {}
    for side in sides:
        if getattr(mixing, f"{side}_gate") is None:
            zeros[f"{side}_gate"] = like_BT.new_zeros(*like_BT.shape[:2], mixing.n_heads)
            zeros |= {f"{side}_{name}": like_BT.new_zeros(row) for name in ("down", "up")}
    return mixing.with_factors(zeros) if zeros else mixing


def scaled(mixing: Mixing, branch: str, dose: float, where: Where) -> Mixing:
    """One branch multiplied by dose at the chosen entries."""
    if branch == "base":
        return with_constant(mixing, (dose - 1) * base_matrix(mixing).cpu() * where.entries)
    side, kind = branch.split("_")
    if kind == "gate":
        gate = getattr(mixing, branch)
        change = _at_tokens((dose - 1) * where.sources * where.targets, where.tokens, gate)
        return mixing.with_factors({branch: gate * (1 + change)})
    down, up = factors(mixing, branch)
    sources, targets = (by_group(heads, mixing.groups) for heads in (where.sources, where.targets))
    change = _at_tokens((dose - 1) * targets, where.tokens, up)
    if bool((where.sources == 1).all()):
        return mixing.with_factors({f"{side}_up": up * (1 + change)})
    return _with_channels(mixing, side, down * like(sources, down), up * change)


def replaced(mixing: Mixing, branch: str, new: tuple[Tensor, ...], where: Where) -> Mixing:
    """A token-dependent branch replaced at the chosen entries.

    Args:
        new: the branch's new factors, see `factors`; a low-rank one may be of another rank.
    """
    side, kind = branch.split("_")
    if kind == "gate":
        (gate,) = factors(mixing, branch)
        share = _at_tokens(where.sources * where.targets, where.tokens, gate)
        return mixing.with_factors({branch: gate + share * (new[0] - gate)})
    return added(scaled(mixing, branch, 0.0, where), side, new[0], new[1], where)


def added(mixing: Mixing, side: str, down: Tensor, up: Tensor, where: Where) -> Mixing:
    """A product more in one side's low-rank branch, at the chosen entries; down and up as in Mixing, of any rank."""
    down = down * like(by_group(where.sources, mixing.groups), down)
    up = up * _at_tokens(by_group(where.targets, mixing.groups), where.tokens, up)
    return _with_channels(mixing, side, down, up)


def with_constant(mixing: Mixing, constant_NM: Tensor) -> Mixing:
    """M with a constant more, [H, H], which joins the base."""
    some = next(iter(mixing.factors().values()), mixing.static)
    constant = constant_NM if some is None else like(constant_NM, some)
    return replace(mixing, static=constant if mixing.static is None else mixing.static + constant)


def constant_channels(mixing: Mixing, side: str, constant_NM: Tensor) -> tuple[Tensor, Tensor]:
    """down and up whose product is the same constant at every token of a side; a channel for each row that is not 0."""
    _, up = factors(mixing, f"{side}_lowrank")
    constant = like(constant_NM, up)
    size = mixing.n_heads // mixing.groups
    identity = torch.eye(size, dtype=up.dtype, device=up.device)
    if mixing.groups == 1:
        rows = constant.any(1).nonzero()[:, 0]
        down, values = identity[rows], constant[rows]
    else:
        down = identity.expand(mixing.groups, -1, -1)
        values = torch.stack([constant[g : g + size, g : g + size] for g in range(0, mixing.n_heads, size)])
    return down.expand(*up.shape[:2], *down.shape), values.expand(*up.shape[:2], *values.shape)


def like(x: Tensor, other: Tensor) -> Tensor:
    """x in the dtype and on the device of another tensor."""
    return x.to(device=other.device, dtype=other.dtype)


def by_group(heads: Tensor, groups: int) -> Tensor:
    """A number for each head as the last axes of a low-rank factor: [1, H], or [G, 1, H/G] with groups."""
    return heads[..., None, :] if groups == 1 else heads.unflatten(-1, (groups, 1, -1))


def _with_channels(mixing: Mixing, side: str, down: Tensor, up: Tensor) -> Mixing:
    old_down, old_up = factors(mixing, f"{side}_lowrank")
    joined = {f"{side}_down": torch.cat([old_down, down], -2), f"{side}_up": torch.cat([old_up, up], -2)}
    return mixing.with_factors(joined)


def _at_tokens(heads: Tensor, tokens_BT: Tensor | None, factor: Tensor) -> Tensor:
    """A number for each head, as it multiplies a factor: 0 at tokens that are not chosen."""
    heads = like(heads, factor)
    if tokens_BT is None:
        return heads
    return heads * like(tokens_BT, factor)[(..., *[None] * (factor.ndim - 2))]
