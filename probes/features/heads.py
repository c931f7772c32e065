"""What each head does at each query token: the metrics of probes.metrics, before they are averaged over queries."""

from __future__ import annotations

from model import DCFormerConfig
from probes.features.feature import FeatureKind, HeadFeature, Place
from probes.metrics import DISTANCE_METRICS, HEAD_METRICS, DistanceMetric, HeadMetric


def _of_pattern(metric: HeadMetric) -> FeatureKind:
    def places(cfg: DCFormerConfig) -> list[Place]:
        return [Place(layer, stage) for layer in range(cfg.n_layers) for stage in metric.ranges]

    def at(cfg: DCFormerConfig, place: Place) -> HeadFeature:
        return HeadFeature(
            name=f"{metric.name}@{place}", place=place, shape=(cfg.n_heads,), unit=metric.unit,
            meaning=f"one query token's share of: {metric.definition}", reader=metric.reader(str(place.where)),
        )  # fmt: skip

    return FeatureKind(metric.name, f"{metric.title}, of each head", places, at)


def _of_distance(metric: DistanceMetric) -> FeatureKind:
    def places(cfg: DCFormerConfig) -> list[Place]:
        return [Place(layer, metric.site) for layer in range(cfg.n_layers)]

    def at(cfg: DCFormerConfig, place: Place) -> HeadFeature:
        return HeadFeature(
            name=f"{metric.name}@{place}", place=place, shape=(cfg.n_heads,), unit=metric.unit,
            meaning=f"one query token's share of: {metric.definition}", reader=metric.reader,
        )  # fmt: skip

    return FeatureKind(metric.name, f"{metric.title}, of each head", places, at)


HEAD_KINDS = (*map(_of_pattern, HEAD_METRICS), *map(_of_distance, DISTANCE_METRICS))
