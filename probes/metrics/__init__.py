"""What heads attend to, how much they differ, and how they are mixed. Every metric is listed in registry.py."""

from probes.metrics.blocks import value_norms
from probes.metrics.kinds import DistanceMetric, DiversityMetric, HeadMetric, Metric, MixingMetric
from probes.metrics.registry import DISTANCE_METRICS, DIVERSITY_METRICS, HEAD_METRICS, MIXING_METRICS
from probes.metrics.sequences import repeated_random_tokens
from probes.metrics.tables import diversity, head_metrics, mixing_metrics, raw_to_composed

__all__ = [
    "DISTANCE_METRICS",
    "DIVERSITY_METRICS",
    "HEAD_METRICS",
    "MIXING_METRICS",
    "DistanceMetric",
    "DiversityMetric",
    "HeadMetric",
    "Metric",
    "MixingMetric",
    "diversity",
    "head_metrics",
    "mixing_metrics",
    "raw_to_composed",
    "repeated_random_tokens",
    "value_norms",
]
