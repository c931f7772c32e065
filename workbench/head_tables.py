"""What the metrics say of a model's heads on one text, as tables, and why some metrics say nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from model import Capture
from probes.metrics import (
    DISTANCE_METRICS,
    DIVERSITY_METRICS,
    HEAD_METRICS,
    MIXING_METRICS,
    Metric,
    diversity,
    head_metrics,
    mixing_metrics,
    raw_to_composed,
)
from probes.metrics.kinds import QueryMean

BESIDE = ("row_sum", "negative_share")
"""Columns that come first: without them, composed weights are read as if they were probabilities."""


@dataclass(frozen=True)
class RandomTokens:
    """A text made for metrics of repetition: a block of random tokens, said several times in a row."""

    block: int = 50
    repeats: int = 2
    seed: int = 0


@dataclass(frozen=True)
class HeadTable:
    """Some metrics of a text.

    table: identifying columns first, then one column a metric (by name); nan where a metric refuses a stage.
    metrics: those that have a column. missing: title of each metric that has none -> what it needs.
    """

    table: pd.DataFrame
    metrics: tuple[Metric, ...]
    missing: Mapping[str, str]


def of_heads(run: Capture) -> HeadTable:
    """A row for each layer, head and stage; columns layer, head, stage, then the head metrics that the text allows."""
    tidy = head_metrics(run)
    first = [metric for name in BESIDE for metric in HEAD_METRICS if metric.name == name]
    metrics = [*first, *(metric for metric in HEAD_METRICS if metric not in first)]
    stages = pd.CategoricalDtype(["raw", "composed"], ordered=True)
    wide = _wide(tidy.astype({"stage": stages}), ["layer", "head", "stage"])
    return _table(wide.astype({"stage": str}), metrics, _unanswered(HEAD_METRICS, run))


def of_distances(run: Capture) -> HeadTable:
    """A row for each layer and head; columns layer, head, then the distances from its raw to its composed maps."""
    return _table(_wide(raw_to_composed(run), ["layer", "head"]), DISTANCE_METRICS, _unanswered(DISTANCE_METRICS, run))


def of_diversity(run: Capture) -> HeadTable:
    """A row for each layer and stage; columns layer, stage, then how different the layer's heads are."""
    tables, missing = [], {}
    for metric in DIVERSITY_METRICS:
        try:
            tables.append(diversity(run, [metric]))
        except ValueError as error:  # too few tokens or heads for this one; others may do
            missing[metric.title] = str(error)
    if not tables:
        return HeadTable(pd.DataFrame({"layer": [], "stage": []}), (), missing)
    wide = _wide(pd.concat(tables), ["layer", "stage"]).sort_values(["layer", "stage"], ascending=[True, False])
    return _table(wide.reset_index(drop=True), DIVERSITY_METRICS, missing)


def of_mixing(run: Capture) -> HeadTable:
    """A row for each layer and site; columns layer, site, then what the mixing matrices are like.

    Raises:
        ValueError: a model that mixes no heads.
    """
    wide = _wide(mixing_metrics(run), ["layer", "site"]).sort_values(["layer", "site"], ascending=[True, False])
    return _table(wide.reset_index(drop=True), MIXING_METRICS, {})


TABLES: Mapping[str, Callable[[Capture], HeadTable]] = {
    "heads": of_heads, "raw to composed": of_distances, "diversity": of_diversity, "mixing": of_mixing,
}  # fmt: skip
"""Every table by its name."""


def top_heads(
    table: pd.DataFrame, metric: str, stage: str, threshold: float, at_least: bool = True
) -> list[tuple[int, int]]:
    """(layer, head) of the heads whose metric at a stage reaches a threshold, the most extreme first.

    Args:
        table: of_heads(...).table. at_least: False takes the heads at or below the threshold.
    """
    rows = table[table.stage == stage].sort_values(metric, ascending=not at_least)
    reached = rows[metric] >= threshold if at_least else rows[metric] <= threshold
    return list(zip(rows[reached]["layer"].tolist(), rows[reached]["head"].tolist(), strict=True))


def _wide(tidy: pd.DataFrame, index: list[str]) -> pd.DataFrame:
    wide = tidy.pivot_table(index=index, columns="metric", values="value", observed=True, sort=True, dropna=False)
    return wide.reset_index().rename_axis(columns=None)


def _table(wide: pd.DataFrame, metrics: tuple | list, missing: Mapping[str, str]) -> HeadTable:
    """Metrics in the order given, behind the columns that say what a row is."""
    measured = tuple(metric for metric in metrics if metric.name in wide.columns)
    names = [metric.name for metric in measured]
    return HeadTable(wide[[c for c in wide.columns if c not in names] + names], measured, missing)


def _unanswered(metrics: tuple[QueryMean, ...], run: Capture) -> dict[str, str]:
    return {metric.title: f"needs {metric.needs}" for metric in metrics if not metric.answerable(run)}
