"""Every head of a layer as a small map: the same reduction as the large ones, made a few queries at a time."""

from __future__ import annotations

import numpy as np
import torch

from model import Capture
from model.functional import visible
from workbench.viewer import Labels, MapView, Panel, max_abs
from workbench.viewer.encoding import SMALL_PX, reduce_in_parts
from workbench.views import UNITS

STAGES = ("raw", "composed", "difference")


def small_maps(run: Capture, layer: int, kind: str, stage: str) -> np.ndarray:
    """The maps of all heads of a layer, [head, rows, cols], each at most SMALL_PX; nan where nothing is visible.

    A cell stands for a block of the map and is its value of largest magnitude, as in reduce_map.

    Args:
        kind: "scores" or "pattern". stage: of STAGES; "difference" = composed - raw.
    """
    return reduce_in_parts(lambda queries: _values(run, layer, kind, stage, queries), len(run), SMALL_PX)


def small_view(run: Capture, kind: str, maps: np.ndarray) -> MapView:
    """The small maps as panels on one scale; a head a panel."""
    scale = max_abs(maps)
    panels = [Panel(f"H{head}", values, scale=scale, unit=UNITS[kind]) for head, values in enumerate(maps)]
    return MapView(
        panels=panels, rows=Labels("query"), cols=Labels("key"), window=((0, len(run)), (0, len(run))),
        size=(len(run), len(run)),
    )  # fmt: skip


def _values(run: Capture, layer: int, kind: str, stage: str, queries: slice) -> np.ndarray:
    stages = ("raw", "composed") if stage == "difference" else (stage,)
    maps = run.maps(layer, [f"{kind}_{one}" for one in stages], queries=queries)
    values = maps[f"{kind}_composed"] - maps[f"{kind}_raw"] if stage == "difference" else maps[f"{kind}_{stage}"]
    at = torch.arange(len(run))
    seen = visible(at[queries], at, run.cfg.keys_visible_in(layer))
    return values.masked_fill(~seen, torch.nan).numpy()
