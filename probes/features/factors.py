"""The factors of the mixing matrices: down, up and gate of either side."""

from __future__ import annotations

from operator import attrgetter

from model import DCFormerConfig
from model.mixing import FACTORS
from probes.features.feature import ActivationFeature, FeatureKind, Place

MEANINGS = {
    "down": "reads source heads into R channels; defined only up to a change of basis together with up",
    "up": "writes R channels to target heads; defined only up to a change of basis together with down",
    "gate": "what each head adds of itself to itself",
}


def places(cfg: DCFormerConfig) -> list[Place]:
    return [Place(layer, site) for layer in range(cfg.n_layers) for site in cfg.mixed_sites]


def places_of_side(cfg: DCFormerConfig, side: str) -> list[Place]:
    return places(cfg) if side in cfg.dynamic_sides else []


def factor(cfg: DCFormerConfig, name: str, place: Place) -> ActivationFeature:
    """One of model.mixing.FACTORS: [R, H] ([G, R, H/G] with groups), gates [H]."""
    side, kind = name.split("_")
    heads = (cfg.rank, cfg.heads_per_group) if cfg.groups == 1 else (cfg.groups, cfg.rank, cfg.heads_per_group)

    return ActivationFeature(
        name=f"{name}@{place}", place=place, shape=(cfg.n_heads,) if kind == "gate" else heads, unit="weight",
        meaning=f"{kind} of the {side} token: {MEANINGS[kind]}", reads=(name,),
        values=attrgetter(name),
    )  # fmt: skip


def _kind(name: str) -> FeatureKind:
    side, kind = name.split("_")
    return FeatureKind(
        name, f"{kind} factor of the {side} token",
        lambda cfg: places_of_side(cfg, side), lambda cfg, place: factor(cfg, name, place),
    )  # fmt: skip


FACTOR_KINDS = tuple(_kind(name) for name in FACTORS)
