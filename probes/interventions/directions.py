"""Directions taken out of mixing: what Q(i) or K(j) says along them becomes the same at every token.

A direction is a matrix [H, H], read as a vector of H*H entries; the part of a token is
Q(i) - sum over directions d of (<Q(i), d> - level_d) d, for an orthonormal set of them.
Axes: B batch, T position, N head (source), M head (target), K direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model import Engine, HookedDCFormer
from model.config import SIDES, SITES, DCFormerConfig
from model.mixing import Mixing, side_part
from model.site_mixing import one_index
from model.taps import LayerActivations, Tap
from probes.interventions.change import Change
from probes.interventions.edits import Where, added, like

NEGLIGIBLE = 1e-8
"""A direction that lies in the span of those before it but for this share of its length adds nothing."""


@dataclass(frozen=True)
class WithoutDirections(Change):
    """Mixing of one layer and site without what one side's part says along some directions.

    directions: [K, H, H] or [H, H], of any length, not necessarily orthogonal: what is removed is their span.
    side: "query" (of Q) or "key" (of K). mean: the part's mean over a corpus, [H, H], at which the projection is held;
    None = it becomes 0. Where heads are mixed in groups, entries between groups must be 0.
    Raises:
        ValueError: an unknown site or side, directions that are not matrices, or that are all zero.
    """

    layer: int
    site: str
    side: str
    directions: Tensor = field(compare=False, repr=False)
    mean: Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, known in (("site", SITES), ("side", SIDES)):
            if getattr(self, name) not in known:
                raise ValueError(f"Unknown {name} {getattr(self, name)!r}. Choose from {', '.join(known)}.")
        shape = list(self.directions.shape)
        if len(shape) not in (2, 3) or shape[-1] != shape[-2]:
            raise ValueError(f"directions must be [H, H], or [how many, H, H], got {shape}.")
        if not bool(torch.isfinite(self.directions).all()) or not bool(self.directions.any()):
            raise ValueError("directions must be finite numbers, not all 0. Give the direction that a probe found.")

    @property
    def basis(self) -> Tensor:
        """An orthonormal basis of the span, [K, H, H] in float64."""
        heads = self.directions.shape[-1]
        given = self.directions.detach().cpu().double().reshape(-1, heads * heads)
        _, sizes, rows = torch.linalg.svd(given, full_matrices=False)
        return rows[sizes > NEGLIGIBLE * sizes[0]].unflatten(1, (heads, heads))

    def check(self, cfg: DCFormerConfig) -> None:
        one_index(self.layer, cfg.n_layers, "layer")
        if self.site not in cfg.mixed_sites or self.side not in cfg.dynamic_sides:
            raise ValueError(
                f"This model has no {self.side} part at site {self.site!r}. Its sites: "
                f"{', '.join(cfg.mixed_sites) or 'none'}; its sides: {', '.join(cfg.dynamic_sides) or 'none'}."
            )
        heads = self.directions.shape[-1]
        if heads != cfg.n_heads or (self.mean is not None and self.mean.shape != (heads, heads)):
            given = f"directions of {heads} heads" + ("" if self.mean is None else f", a mean {list(self.mean.shape)}")
            raise ValueError(f"The model mixes {cfg.n_heads} heads, got {given}. Give [{cfg.n_heads}, {cfg.n_heads}].")
        size = cfg.heads_per_group
        between = 1 - torch.block_diag(*[torch.ones(size, size)] * cfg.groups)
        if bool((self.directions.cpu() * between).any()):
            raise ValueError(
                f"This model mixes heads within {cfg.groups} groups, and a direction has entries between two of them. "
                "Set these to 0."
            )

    def first_layer(self, cfg: DCFormerConfig) -> int:
        return one_index(self.layer, cfg.n_layers, "layer")

    def tap(self, source: HookedDCFormer | Engine) -> Tap:
        layer, basis = self.first_layer(source.cfg), self.basis
        level = torch.zeros(len(basis)) if self.mean is None else projections(self.mean.cpu().double()[None], basis)[0]

        def change(at: LayerActivations) -> None:
            if at.layer == layer:
                at.mixing[self.site] = without(at.mixing[self.site], self.side, basis, level)

        return change


def projections(parts: Tensor, basis_KNM: Tensor) -> Tensor:
    """What matrices [..., H, H] say along each direction, [..., K]."""
    return torch.einsum("...nm,knm->...k", parts, like(basis_KNM, parts))


def without(mixing: Mixing, side: str, basis_KNM: Tensor, level_K: Tensor) -> Mixing:
    """The mixing with one side's part held at a level along orthonormal directions, through channels of its factors."""
    part_BTNM = side_part(mixing, side)
    surplus_BTK = projections(part_BTNM, basis_KNM) - like(level_K, part_BTNM)
    change_BTNM = -torch.einsum("btk,knm->btnm", surplus_BTK, like(basis_KNM, part_BTNM))
    down, up = _channels(change_BTNM, mixing.groups)
    heads = torch.ones(mixing.n_heads, dtype=torch.float64)
    return added(mixing, side, down, up, Where(heads, heads))


def _channels(matrices_BTNM: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """down and up whose product is a matrix of its own at every token: a channel for each source head."""
    B, T, N, _ = matrices_BTNM.shape
    size = N // groups
    identity = torch.eye(size, dtype=matrices_BTNM.dtype, device=matrices_BTNM.device)
    if groups == 1:
        return identity.expand(B, T, N, N), matrices_BTNM
    blocks = [matrices_BTNM[:, :, g : g + size, g : g + size] for g in range(0, N, size)]
    return identity.expand(B, T, groups, size, size), torch.stack(blocks, 2)


def as_matrices(directions: Sequence[float] | Tensor, n_heads: int) -> Tensor:
    """Directions given as vectors of H*H entries (source * H + target), or as matrices already, [K, H, H] in float64.

    Raises:
        ValueError: vectors of another length.
    """
    given = torch.as_tensor(directions, dtype=torch.float64)
    if given.shape[-1:] != (n_heads * n_heads,) and given.shape[-2:] != (n_heads, n_heads):
        raise ValueError(
            f"A direction of mixing among {n_heads} heads has {n_heads}*{n_heads} entries, got shape "
            f"{list(given.shape)}. Probe the query or key part of M, [token, H*H]."
        )
    return given.reshape(-1, n_heads, n_heads)
