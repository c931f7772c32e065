"""Which tensors a harvest writes for the features that are asked for."""

from __future__ import annotations

from collections.abc import Sequence

from probes.features import Feature, PartFeature, PredictionFeature
from probes.store import StoredFeature


def tensors_of(features: Sequence[Feature], products: bool) -> list[Feature]:
    """What is written to the safetensors files: parts as their factors where these are smaller, unless products."""
    found: dict[str, Feature] = {}
    for feature in features:
        kept = feature.factors if _as_factors(feature, products) else (feature,)  # type: ignore[attr-defined]
        found |= {one.name: one for one in kept if not isinstance(one, PredictionFeature)}
    return list(found.values())


def predictions_of(features: Sequence[Feature]) -> list[PredictionFeature]:
    return [feature for feature in features if isinstance(feature, PredictionFeature)]


def described(features: Sequence[Feature], dtype: str, products: bool) -> tuple[StoredFeature, ...]:
    """Every feature that can be read, as the manifest names it: those asked for, then the factors that they are kept
    as."""
    found: dict[str, StoredFeature] = {}
    for feature in features:
        about = {"name": feature.name, "shape": feature.shape, "unit": feature.unit, "meaning": feature.meaning}
        if isinstance(feature, PredictionFeature):
            found[feature.name] = StoredFeature(**about, dtype=feature.dtype, stored_as="column")  # type: ignore[arg-type]
        elif _as_factors(feature, products):
            parts = tuple(one.name for one in feature.factors)  # type: ignore[attr-defined]
            found[feature.name] = StoredFeature(**about, dtype="float32", stored_as="factors", parts=parts)  # type: ignore[arg-type]
        else:
            found[feature.name] = StoredFeature(**about, dtype=dtype)  # type: ignore[arg-type]
    for one in tensors_of(features, products):
        found.setdefault(one.name, StoredFeature(one.name, dtype, one.shape, one.unit, one.meaning))
    return tuple(found.values())


def _as_factors(feature: Feature, products: bool) -> bool:
    return isinstance(feature, PartFeature) and feature.smaller_as_factors and not products
