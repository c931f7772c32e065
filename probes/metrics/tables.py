"""Many metrics of many layers as one tidy table: a row for each number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import pandas as pd

from model import Capture
from probes.metrics.kinds import (
    STAGES,
    DistanceMetric,
    DiversityMetric,
    HeadMetric,
    Metric,
    MixingMetric,
    Runs,
    as_list,
    query_means,
)
from probes.metrics.registry import DISTANCE_METRICS, DIVERSITY_METRICS, HEAD_METRICS, MIXING_METRICS
from probes.metrics.site_moments import SiteMoments

Kind = TypeVar("Kind", bound=Metric)


def head_metrics(
    runs: Runs, metrics: Sequence[HeadMetric | str] | None = None, layers: Sequence[int] | None = None
) -> pd.DataFrame:
    """Columns layer, head, stage ("raw", "composed"), metric (name), value: means over the queries of all captures.

    Args:
        runs: a capture or several; queries that count weigh alike, so longer prompts weigh more.
        metrics: of HEAD_METRICS, or their names; None = all that these prompts allow (induction needs repeats, say).
            A stage that a metric refuses has no rows.
        layers: None = all that were captured.
    Raises:
        ValueError: an unknown name, or a metric that was asked for by name and has no query that counts.
    """
    several = as_list(runs)
    chosen = [m for m in HEAD_METRICS if m.answerable(several)] if metrics is None else _named(metrics, HEAD_METRICS)
    asked = [(metric, stage) for metric in chosen for stage in STAGES if stage in metric.ranges]
    rows = []
    for layer in _layers(several, layers):
        values = query_means([(metric, metric.reader(stage)) for metric, stage in asked], several, layer)
        for (metric, stage), of_heads in zip(asked, values.tolist(), strict=True):
            rows += [(layer, head, stage, metric.name, value) for head, value in enumerate(of_heads)]
    return pd.DataFrame(rows, columns=["layer", "head", "stage", "metric", "value"])


def raw_to_composed(
    runs: Runs, metrics: Sequence[DistanceMetric | str] | None = None, layers: Sequence[int] | None = None
) -> pd.DataFrame:
    """How far mixing takes each head's map: columns layer, site, head, metric, value. Arguments as for head_metrics."""
    several = as_list(runs)
    found = DISTANCE_METRICS
    chosen = [m for m in found if m.answerable(several)] if metrics is None else _named(metrics, found)
    rows = []
    for layer in _layers(several, layers):
        values = query_means([(metric, metric.reader) for metric in chosen], several, layer)
        for metric, of_heads in zip(chosen, values.tolist(), strict=True):
            rows += [(layer, metric.site, head, metric.name, value) for head, value in enumerate(of_heads)]
    return pd.DataFrame(rows, columns=["layer", "site", "head", "metric", "value"])


def diversity(
    runs: Runs, metrics: Sequence[DiversityMetric | str] | None = None, layers: Sequence[int] | None = None
) -> pd.DataFrame:
    """How different the heads of each layer are, before and after mixing: columns layer, stage, metric, value.

    Args:
        metrics: of DIVERSITY_METRICS, or their names; None = all. A stage that a metric refuses has no rows.
    Raises:
        ValueError: an unknown name, a model of one head, or too few tokens.
    """
    several = as_list(runs)
    rows = [
        (layer, stage, metric.name, metric(several, layer, stage))
        for layer in _layers(several, layers)
        for metric in _named(metrics, DIVERSITY_METRICS)
        for stage in STAGES
        if stage in metric.ranges
    ]
    return pd.DataFrame(rows, columns=["layer", "stage", "metric", "value"])


def mixing_metrics(
    runs: Runs,
    metrics: Sequence[MixingMetric | str] | None = None,
    layers: Sequence[int] | None = None,
    sites: Sequence[str] | None = None,
) -> pd.DataFrame:
    """What the mixing matrices of each layer and site are like: columns layer, site, metric, value.

    Args:
        runs: a capture or several; together they are the corpus of every expectation.
        metrics: of MIXING_METRICS, or their names; None = all.
        sites: None = those where the model mixes.
    Raises:
        ValueError: an unknown name, a model that mixes no heads, or a site where it does not.
    """
    several, rows = as_list(runs), []
    for layer in _layers(several, layers):
        # a plain model is asked for one site, and refused with a reason
        for site in sites or several[0].cfg.mixed_sites or ("pre",):
            moments = SiteMoments(several, layer, site)
            for metric in _named(metrics, MIXING_METRICS):
                rows.append((layer, site, metric.name, metric.value(moments)))
    return pd.DataFrame(rows, columns=["layer", "site", "metric", "value"])


def _layers(runs: Sequence[Capture], layers: Sequence[int] | None) -> list[int]:
    """Captured layers, counted from the start."""
    return sorted(runs[0].layers) if layers is None else [runs[0].layer_index(layer) for layer in layers]


def _named(metrics: Sequence[Kind | str] | None, known: Sequence[Kind]) -> list[Kind]:
    """Metrics given as themselves or by name."""
    if metrics is None:
        return list(known)
    by_name = {metric.name: metric for metric in known}
    unknown = [name for name in metrics if isinstance(name, str) and name not in by_name]
    if unknown:
        raise ValueError(f"Unknown metric {unknown[0]!r}. Choose from {', '.join(by_name)}.")
    return [by_name[metric] if isinstance(metric, str) else metric for metric in metrics]
