"""Controls: the branches of another token of the same prompt, or the same branches between other heads."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.config import SITES
from model.mixing import BRANCHES, Mixing
from model.taps import LayerActivations
from probes.interventions.edits import Where, by_group, factors, like


def shuffled_order(at: LayerActivations, tokens_BT: Tensor | None, seed: int) -> Tensor:
    """For each token the one whose branches it gets, [batch, pos]: the same in all layers and sites, padding apart.

    Args:
        tokens_BT: the tokens that trade among themselves; None = all of a prompt.
    Raises:
        ValueError: cached decoding, where later tokens are not there yet.
    """
    if not at.whole:
        raise ValueError("Mode 'shuffle' needs the whole prompt at once, and this run is cached decoding.")
    batch, length = at.q.shape[:2]
    places = at.positions().expand(batch, length).cpu()
    chosen_BT = places >= 0 if tokens_BT is None else (places >= 0) & tokens_BT.cpu()
    order = torch.arange(length).repeat(batch, 1)
    generator = torch.Generator().manual_seed(seed)
    for row, chosen in zip(order, chosen_BT, strict=True):
        ours = chosen.nonzero()[:, 0]
        row[ours] = ours[torch.randperm(len(ours), generator=generator)]
    return order.to(at.q.device)


def shuffled(mixing: Mixing, branch: str, order_BT: Tensor) -> tuple[Tensor, ...]:
    """The factors of a branch, each token's taken from another."""
    rows = torch.arange(len(order_BT), device=order_BT.device)[:, None]
    return tuple(factor[rows, order_BT] for factor in factors(mixing, branch))


def turned(mixing: Mixing, branch: str, where: Where, layer: int, site: str, seed: int) -> tuple[Tensor, ...]:
    """The factors of a branch, the chosen heads turned by a random orthogonal matrix, the same at every token.

    The Frobenius norm of each token's chosen entries, their rank, and how they change from token to token stay; which
    heads they join does not. A single entry can only keep or change its sign.
    """
    words = [seed, layer, SITES.index(site), BRANCHES.index(branch)]
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))
    chosen = (where.sources * where.targets,) if branch.endswith("gate") else (where.sources, where.targets)
    groups = 1 if branch.endswith("gate") else mixing.groups
    new = []
    for factor, heads in zip(factors(mixing, branch), chosen, strict=True):
        turns = like(_turn(heads, groups, generator), factor)
        own = factor * like(heads if branch.endswith("gate") else by_group(heads, groups), factor)
        new.append(own @ (turns if groups > 1 else turns[0]))
    return tuple(new)


def _turn(heads_H: Tensor, groups: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix among the chosen heads of each group, the identity on the others, [G, H/G, H/G]."""
    size = len(heads_H) // groups
    turns = torch.eye(size, dtype=torch.float64).repeat(groups, 1, 1)
    for turn, heads in zip(turns, heads_H.view(groups, size), strict=True):
        ours = heads.nonzero()[:, 0]
        noise = torch.randn(len(ours), len(ours), generator=generator, dtype=torch.float64)
        orthogonal, triangle = torch.linalg.qr(noise)
        # QR alone is not uniform over orthogonal matrices: the signs of R's diagonal make it so (Mezzadri 2007)
        turn[ours[:, None], ours] = orthogonal * triangle.diagonal().sign()
    return turns
