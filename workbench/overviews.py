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
    """One measure at one site or stage: values [layer, head], nan where it is not defined."""

    where: str
    values: np.ndarray
    unit: str


def pictures(run: Capture, measure: str) -> list[Picture]:
    """What a measure says of every head of a prompt.

    Raises:
        ValueError: the prompt has no query that counts for this measure, or nothing is mixed where it looks.
    """
    if measure == "distance":
        return [Picture(f"M_{site}", values.numpy(), DISTANCE.unit) for site, values in distances(run).items()]
    if measure == "off_diagonal":
        return [
            Picture(f"M_{site}", torch.stack([_off_diagonal(run, layer, site) for layer in sorted(run.layers)]).numpy(),
                    OFF_DIAGONAL.unit)
            for site in _mixed(run)
        ]  # fmt: skip
    if measure == "raw_to_composed":
        table = raw_to_composed(run, [m for m in DISTANCE_METRICS if m.answerable(run)])
        return [
            Picture(f"{m.title} ({m.site})", _grid(table[table.metric == m.name]), m.unit)
            for m in DISTANCE_METRICS
            if m.answerable(run)
        ]
    metric = MEASURES[measure]
    table = head_metrics(run, [measure])
    stages = [stage for stage in STAGES if stage in metric.ranges and (stage == "raw" or run.cfg.mixed_sites)]
    return [Picture(stage, _grid(table[table.stage == stage]), metric.unit) for stage in stages]


def _grid(rows: pd.DataFrame) -> np.ndarray:
    return rows.pivot(index="layer", columns="head", values="value").to_numpy(float)


def _mixed(run: Capture) -> tuple[str, ...]:
    if not run.cfg.mixed_sites:
        raise ValueError("This model mixes no heads: there is nothing off the diagonal.")
    return run.cfg.mixed_sites


def _off_diagonal(run: Capture, layer: int, site: str) -> torch.Tensor:
    squares_NM = SiteMoments([run], layer, site).visible_squares
    return 1 - squares_NM.diagonal() / squares_NM.sum(0)


def overview_view(found: list[Picture], selected: Cell) -> MapView:
    """The pictures side by side: sites on one scale of their own measure, signed ones on a diverging scale.

    Args:
        selected: (row, head).
    """
    scale = _one_scale(found)
    panels = [
        Panel(
            one.where if len(one.where) > 12 else f"{one.where}: {one.unit}", one.values, scale=scale, unit=one.unit,
            signed=finite_range(one.values)[0] < 0,
        )
        for one in found
    ]  # fmt: skip
    layers, heads = found[0].values.shape
    return MapView(
        panels=panels, rows=Labels("layer", [f"L{layer}" for layer in range(layers)]),
        cols=Labels("head", [f"H{head}" for head in range(heads)]), selected=selected,
        absent="not defined here",
    )  # fmt: skip


def _one_scale(found: list[Picture]) -> float | None:
    """Sites are compared with each other; raw and composed weights differ in size and get a scale each."""
    by_site = all(one.where.startswith("M_") for one in found)
    return max_abs(*(one.values for one in found)) if by_site else None
