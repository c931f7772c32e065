"""What a generation looks like: the composition of one new token, and of all of them as they come."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.config import SITES, DCFormerConfig
from workbench.generating import Transcript, mean_over_heads
from workbench.viewer import Cell, Labels, MapView, Panel

UNIT = "rms distance"


def token_view(transcript: Transcript, shown: int, cfg: DCFormerConfig, selected: Cell | None = None) -> MapView:
    """Layer x head of one new token, a panel a site: how far M is from identity at its row; absent before it is run.

    The scale is the largest distance of all tokens so far, so that tokens can be compared.
    """
    rows = transcript.rows
    empty = np.full((cfg.n_layers, cfg.n_heads), np.nan, dtype=np.float32)
    scale = _scale([row[site] for row in rows for site in SITES])
    panels = [
        Panel(f"M_{site} at the token", rows[shown][site] if 0 <= shown < len(rows) else empty, scale, UNIT, False)
        for site in SITES
    ]
    return MapView(
        panels, Labels("layer", [f"L{layer}" for layer in range(cfg.n_layers)]),
        Labels("head", [f"H{head}" for head in range(cfg.n_heads)]), selected=selected, absent="no token yet",
    )  # fmt: skip


def growth_view(transcript: Transcript, room: int, cfg: DCFormerConfig, names: Sequence[str], shown: int) -> MapView:
    """Layer x new token, a panel a site: root mean square over heads; tokens that have not come are absent.

    Args:
        room: how many tokens there may be, so that the picture keeps its size. names: of the tokens that are there.
        shown: the token whose column is marked, in its most composed layer.
    """
    rows = transcript.rows
    by_site = {site: np.full((cfg.n_layers, room), np.nan, dtype=np.float32) for site in SITES}
    for token, row in enumerate(rows[:room]):
        for site, means in mean_over_heads(row).items():
            by_site[site][:, token] = means
    scale = _scale(list(by_site.values()))
    panels = [Panel(f"M_{site}, all heads", values, scale, UNIT, False) for site, values in by_site.items()]
    marked = (int(np.argmax(by_site[SITES[-1]][:, shown])), shown) if 0 <= shown < min(len(rows), room) else None
    labels = [names[at] if at < len(names) else "…" for at in range(room)]
    return MapView(
        panels, Labels("layer", [f"L{layer}" for layer in range(cfg.n_layers)]), Labels("new token", labels),
        selected=marked, absent="no token yet", stretch=True,
    )  # fmt: skip


def most_composed(transcript: Transcript, shown: int) -> Cell | None:
    """(layer, head) whose mixing, both sites together, is farthest from identity at a new token; None without a row."""
    rows = transcript.rows
    if not 0 <= shown < len(rows):
        return None
    total = np.asarray(sum(rows[shown][site] for site in SITES))
    layer, head = divmod(int(total.argmax()), total.shape[1])
    return layer, head


def shades(transcript: Transcript) -> np.ndarray:
    """One number a new token: root mean square of its distances over sites, layers and heads; NaN without a row."""
    rows = transcript.rows
    found = np.full(len(transcript.tokens), np.nan)
    for token, row in enumerate(rows[: len(found)]):
        found[token] = np.sqrt(np.mean([np.square(row[site]).mean() for site in SITES]))
    return found


def _scale(values: Sequence[np.ndarray]) -> float:
    return max((float(np.nanmax(v)) for v in values if np.isfinite(v).any()), default=0.0) or 1.0
