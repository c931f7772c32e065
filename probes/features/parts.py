"""Q(i) and K(j): what a token contributes to the mixing matrices as a query and as a key."""

from __future__ import annotations

import torch
from torch import Tensor

from model import DCFormerConfig
from model.mixing import Mixing, side_part
from probes.features.factors import factor, places_of_side
from probes.features.feature import FeatureKind, PartFeature, Place


def part(cfg: DCFormerConfig, side: str, place: Place) -> PartFeature:
    """down^T up + diag gate, [source head, target head]; with groups its diagonal blocks, [G, H/G, H/G]."""
    size = cfg.heads_per_group
    letter = {"query": "Q(i)", "key": "K(j)"}[side]
    factors = tuple(factor(cfg, f"{side}_{kind}", place) for kind in ("down", "up", "gate"))

    def values(mixing: Mixing) -> Tensor:
        whole = side_part(mixing, side)
        if cfg.groups == 1:
            return whole
        cut = [slice(group * size, (group + 1) * size) for group in range(cfg.groups)]
        return torch.stack([whole[..., block, block] for block in cut], dim=-3)

    return PartFeature(
        name=f"{side}_part@{place}", place=place, unit="weight", values=values,
        shape=(size, size) if cfg.groups == 1 else (cfg.groups, size, size),
        meaning=f"{letter}, the {side} token's part of M, source x target: down^T up + diag gate, without the base",
        factors=factors, reads=tuple(name for one in factors for name in one.reads),
    )  # fmt: skip


QUERY_PART = FeatureKind(
    "query_part", "Q(i), the query token's part of M",
    lambda cfg: places_of_side(cfg, "query"), lambda cfg, place: part(cfg, "query", place),
)  # fmt: skip
KEY_PART = FeatureKind(
    "key_part", "K(j), the key token's part of M",
    lambda cfg: places_of_side(cfg, "key"), lambda cfg, place: part(cfg, "key", place),
)  # fmt: skip
