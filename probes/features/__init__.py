"""What can be kept of every token. Every kind is listed in registry.py."""

from probes.features.feature import (
    ActivationFeature,
    Feature,
    HeadFeature,
    PartFeature,
    Place,
    PredictionFeature,
    ResidualFeature,
)
from probes.features.names import default_features, resolve
from probes.features.registry import GROUPS, KINDS

__all__ = [
    "GROUPS",
    "KINDS",
    "ActivationFeature",
    "Feature",
    "HeadFeature",
    "PartFeature",
    "Place",
    "PredictionFeature",
    "ResidualFeature",
    "default_features",
    "resolve",
]
