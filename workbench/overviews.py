"""Layer x head pictures of a prompt by a chosen measure, for seeing where to look.

Every measure is a Metric, with its title, unit, definition and ranges; its pictures are one a site or one a stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from model import Capture
from model.config import SITES
from probes.metrics import DISTANCE_METRICS, HEAD_METRICS, Metric, head_metrics, raw_to_composed
from probes.metrics.kinds import STAGES
from probes.metrics.site_moments import SiteMoments
from workbench.viewer import Cell, Labels, MapView, Panel
from workbench.viewer.view import finite_range, max_abs
from workbench.views import distances

DISTANCE = Metric(
    name="distance", title="Distance of mixing from identity", unit="rms distance",
    ranges=dict.fromkeys(SITES, (0.0, inf)),
    definition=(
        "Root mean square, over the pairs of tokens that see each other, of the Euclidean length of "
        "M(i, j)[:, h] - e_h: 0 for a target head that keeps its own map, 1 for one that drops it or adds as much of "
        "another."
    ),
)  # fmt: skip
OFF_DIAGONAL = Metric(
    name="off_diagonal", title="Off-diagonal mass of mixing", unit="share", ranges=dict.fromkeys(SITES, (0.0, 1.0)),
    definition=(
        "Of the squares of a target head's column M(i, j)[:, h], summed over the pairs of tokens that see each other: "
        "the share that comes from other source heads than h itself."
    ),
)  # fmt: skip
RAW_TO_COMPOSED = Metric(
    name="raw_to_composed", title="Distance from raw to composed", unit="nats (pre), weight (post)",
    ranges={"pre": (0.0, inf), "post": (0.0, inf)},
    definition=" ".join(f"At the site {metric.site}: {metric.definition}" for metric in DISTANCE_METRICS),
)  # fmt: skip
MEASURES: Mapping[str, Metric] = {
    metric.name: metric for metric in (DISTANCE, RAW_TO_COMPOSED, OFF_DIAGONAL, *HEAD_METRICS)
}
"""Every measure of an overview by its name; the first is where it starts."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One measure at one site or stage: values [layer, head], nan where it is not defined.

    title: above it. scale: at the end of its colours; None = its own largest value.
    """

    where: str
    values: np.ndarray
    unit: str
    title: str
    scale: float | None = None


def pictures(run: Capture, measure: str, by_site: Mapping[str, Tensor] | None = None) -> list[Picture]:
    """What a measure says of every head of a prompt.

    Args:
        by_site: what views.distances(run) gives, if it is known already.
    Raises:
        ValueError: the prompt has no query that counts for this measure, or nothing is mixed where it looks.
    """
    if measure == "distance":
        known = distances(run) if by_site is None else by_site
        return _of_sites({site: values.numpy() for site, values in known.items()}, DISTANCE)
    if measure == "off_diagonal":
        return _of_sites({site: _off_diagonal(run, site) for site in _mixed(run)}, OFF_DIAGONAL)
    if measure == "raw_to_composed":
        metrics = [m for m in DISTANCE_METRICS if m.answerable(run)]
        table = raw_to_composed(run, metrics)
        return [Picture(m.site, _grid(table[table.metric == m.name]), m.unit, m.title) for m in metrics]
    metric = MEASURES[measure]
    table = head_metrics(run, [measure])
    stages = [stage for stage in STAGES if stage in metric.ranges and (stage == "raw" or run.cfg.mixed_sites)]
    # a scale each: raw and composed weights differ in size
    return [
        Picture(stage, _grid(table[table.stage == stage]), metric.unit, f"{stage}: {metric.unit}") for stage in stages
    ]


def _of_sites(by_site: Mapping[str, np.ndarray], metric: Metric) -> list[Picture]:
    """Both sites on one scale, to be compared."""
    scale = max_abs(*by_site.values())
    return [Picture(site, values, metric.unit, f"M_{site}: {metric.unit}", scale) for site, values in by_site.items()]


def _grid(rows: pd.DataFrame) -> np.ndarray:
    return rows.pivot(index="layer", columns="head", values="value").to_numpy(float)


def _mixed(run: Capture) -> tuple[str, ...]:
    if not run.cfg.mixed_sites:
        raise ValueError("This model mixes no heads: there is nothing off the diagonal.")
    return run.cfg.mixed_sites


def _off_diagonal(run: Capture, site: str) -> np.ndarray:
    squares = (SiteMoments([run], layer, site).visible_squares for layer in sorted(run.layers))
    return torch.stack([1 - of_layer.diagonal() / of_layer.sum(0) for of_layer in squares]).numpy()


def overview_view(found: list[Picture], selected: Cell) -> MapView:
    """The pictures side by side, signed ones on a diverging scale.

    Args:
        selected: (row, head).
    """
    panels = [
        Panel(one.title, one.values, scale=one.scale, unit=one.unit, signed=finite_range(one.values)[0] < 0)
        for one in found
    ]
    layers, heads = found[0].values.shape
    return MapView(
        panels=panels, rows=Labels("layer", [f"L{layer}" for layer in range(layers)]),
        cols=Labels("head", [f"H{head}" for head in range(heads)]), selected=selected,
        absent="not defined here",
    )  # fmt: skip
