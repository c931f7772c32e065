"""The residual stream between layers."""

from __future__ import annotations

from model import DCFormerConfig
from probes.features.feature import FeatureKind, Place, ResidualFeature


def _places(cfg: DCFormerConfig) -> list[Place]:
    return [Place(layer) for layer in range(cfg.n_layers + 1)]


def _residual(cfg: DCFormerConfig, place: Place) -> ResidualFeature:
    where = "after the last layer" if place.layer == cfg.n_layers else f"entering layer {place.layer}"
    return ResidualFeature(
        name=f"residual@{place}", place=place, shape=(cfg.d_model,), unit="residual stream",
        meaning=f"the residual stream {where}",
    )  # fmt: skip


RESIDUAL = FeatureKind("residual", "residual stream entering a layer", _places, _residual)
