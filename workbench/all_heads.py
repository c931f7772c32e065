"""Every head of a layer as a small map: the same reduction as the large ones, made a few queries at a time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from model import Capture
from model.functional import visible
from workbench.viewer import Labels, MapView, Panel, max_abs, reduce_map
from workbench.viewer.encoding import SMALL_PX, block_edges, peak
from workbench.views import UNITS

STAGES = ("raw", "composed", "difference")
ROWS_AT_ONCE = 64


def small_maps(run: Capture, layer: int, kind: str, stage: str) -> np.ndarray:
    """The maps of all heads of a layer, [head, rows, cols], each at most SMALL_PX; nan where nothing is visible.

    A cell stands for a block of the map and is its value of largest magnitude, as in reduce_map.

    Args:
        kind: "scores" or "pattern". stage: of STAGES; "difference" = composed - raw.
    """
    edges = block_edges(len(run), min(len(run), SMALL_PX))
    rows = []
    for start in range(0, len(edges) - 1, _blocks_at_once(edges)):
        some = edges[start : start + _blocks_at_once(edges) + 1]
        values_NTS = _values(run, layer, kind, stage, slice(int(some[0]), int(some[-1])))
        rows += [peak(values_NTS[:, a - some[0] : b - some[0]], axis=1) for a, b in pairwise(some)]
    return np.stack([reduce_map(head, SMALL_PX) for head in np.stack(rows, axis=1)])


def small_view(run: Capture, kind: str, maps: np.ndarray) -> MapView:
    """The small maps as panels on one scale; a head a panel."""
    scale = max_abs(maps)
    panels = [Panel(f"H{head}", values, scale=scale, unit=UNITS[kind]) for head, values in enumerate(maps)]
    return MapView(
        panels=panels, rows=Labels("query"), cols=Labels("key"), window=((0, len(run)), (0, len(run))),
        size=(len(run), len(run)),
    )  # fmt: skip


def _blocks_at_once(edges: np.ndarray) -> int:
    return max(1, ROWS_AT_ONCE // int(np.diff(edges).max()))


def _values(run: Capture, layer: int, kind: str, stage: str, queries: slice) -> np.ndarray:
    stages = ("raw", "composed") if stage == "difference" else (stage,)
    maps = run.maps(layer, [f"{kind}_{one}" for one in stages], queries=queries)
    values = maps[f"{kind}_composed"] - maps[f"{kind}_raw"] if stage == "difference" else maps[f"{kind}_{stage}"]
    at = torch.arange(len(run))
    seen = visible(at[queries], at, run.cfg.keys_visible_in(layer))
    return values.masked_fill(~seen, torch.nan).numpy()
