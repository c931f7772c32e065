"""Several changes in one forward pass: the batch is repeated, and each copy is changed in its own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from model import Engine, HookedDCFormer
from model.mixing import Mixing
from model.taps import LayerActivations, Tap
from probes.interventions.change import Several
from probes.interventions.edits import Where, added, constant_channels


class Stacked(Several):
    """Changes side by side: the first n-th of the batch under the first, the next under the second, and so on.

    For prompts repeated once for each change, one copy of the batch after another. Where their constants differ (an
    edge cut, a frozen branch), they become channels of the factors, which cost as much as that many of the model's
    rank.
    """

    def tap(self, source: HookedDCFormer | Engine) -> Tap:
        taps = [change.tap(source) for change in self.changes]

        def each(at: LayerActivations) -> None:
            batch = at.q.shape[0]
            if batch % len(taps):
                raise ValueError(f"{batch} prompts cannot be shared out among {len(taps)} changes. Repeat them first.")
            size = batch // len(taps)
            pieces = [_piece(at, slice(start, start + size)) for start in range(0, batch, size)]
            for tap, piece in zip(taps, pieces, strict=True):
                tap(piece)
            at.q, at.k, at.v = (torch.cat([getattr(piece, name) for piece in pieces]) for name in "qkv")
            at.mixing = {site: _joined([piece.mixing[site] for piece in pieces], at.mixing[site]) for site in at.mixing}

        return each


def _piece(at: LayerActivations, rows: slice) -> LayerActivations:
    mask = None if at.key_mask is None else at.key_mask[rows]
    mixing = {site: mixing.batch(rows) for site, mixing in at.mixing.items()}
    return replace(at, q=at.q[rows], k=at.k[rows], v=at.v[rows], mixing=mixing, key_mask=mask)


def _joined(pieces: Sequence[Mixing], intact: Mixing) -> Mixing:
    """One mixing of all copies: constants that differ become channels, ranks are filled up with channels of zeros."""
    if all(piece.is_identity for piece in pieces):
        return pieces[0]
    batch, positions = next(iter(intact.factors().values())).shape[:2]
    whole = [_with_sides(piece, intact, batch // len(pieces), positions) for piece in pieces]
    if any(not _same(piece.static, whole[0].static) for piece in whole):
        whole = [_constant_in_channels(piece, intact.static) for piece in whole]
    changed = {}
    for name in intact.factors():
        factors = [getattr(piece, name) for piece in whole]
        if not name.endswith("gate"):
            most = max(factor.shape[-2] for factor in factors)
            factors = [F.pad(factor, (0, 0, 0, most - factor.shape[-2])) for factor in factors]
        changed[name] = torch.cat(factors)
    return whole[0].with_factors(changed)


def _with_sides(piece: Mixing, intact: Mixing, batch: int, positions: int) -> Mixing:
    """The same mixing with factors of zeros where the model has some and the piece has none (M = I)."""
    missing = [name for name in intact.factors() if getattr(piece, name) is None]
    return piece.with_factors({name: torch.zeros_like(getattr(intact, name)[:batch]) for name in missing})


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def _constant_in_channels(piece: Mixing, static: Tensor | None) -> Mixing:
    """The same mixing with the intact W; what differs from it stands in channels of one side."""
    side = "query" if piece.query_gate is not None else "key"
    own = torch.zeros_like(static) if piece.static is None and static is not None else piece.static
    more = own if static is None else own - static  # type: ignore[operator]
    if more is None:
        return piece
    heads = torch.ones(piece.n_heads, dtype=torch.float64)
    changed = added(piece, side, *constant_channels(piece, side, more), Where(heads, heads))
    return replace(changed, static=static)
