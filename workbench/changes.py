"""What a change does to one prompt, as numbers and maps: the intact run beside the changed one.

Axes: T position, L layer, N head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model import Capture
from probes.comparison import Comparison
from workbench.viewer import Cell, Labels, MapView, Panel, Window, max_abs


@dataclass(frozen=True)
class ChangeReading:
    """What a change does to the predictions of a prompt.

    loss_intact, loss_changed: of the token after each position in nats, [T]; nan after the last.
    kl: KL(intact || changed) of the next-token distributions at each position in nats, [T].
    """

    loss_intact: np.ndarray
    loss_changed: np.ndarray
    kl: np.ndarray

    @property
    def totals(self) -> tuple[float, float]:
        """Loss of the whole prompt, intact and changed, in nats."""
        return float(np.nansum(self.loss_intact)), float(np.nansum(self.loss_changed))

    @property
    def means(self) -> tuple[float, float, float]:
        """Loss intact, loss changed, and KL, in nats per token that was predicted; nan where none was.

        The last position predicts no token of the prompt and does not count, as in probes.measures.
        """
        predicted = len(self.kl) - 1
        if not predicted:
            return (float("nan"),) * 3
        intact, changed = self.totals
        return intact / predicted, changed / predicted, float(self.kl[:-1].sum()) / predicted


def read_change(intact: Capture, changed: Capture) -> ChangeReading:
    """Losses and divergence of two runs of one prompt.

    Raises:
        ValueError: other tokens, or a capture without logits.
    """
    if intact.logits is None or changed.logits is None:
        raise ValueError("A capture was made without logits. Capture again with logits=True.")
    if not torch.equal(intact.tokens, changed.tokens):
        raise ValueError("The two runs read different tokens. Run the same prompt twice.")
    every = [(at, at) for at in range(len(intact))]
    tokens = Comparison(("intact", "changed"), (intact, changed), every, "same").tokens
    return ChangeReading(*(tokens[name].to_numpy() for name in ("loss_a", "loss_b", "kl")))


def pattern_distances(intact: Capture, changed: Capture, query: int) -> Tensor:
    """How far each head's composed pattern moved at a query: L1 distance of the two rows, [layer, head]."""
    rows = (torch.stack([run.pattern(layer, queries=query)[:, 0] for layer in sorted(run.layers)])
            for run in (intact, changed))  # fmt: skip
    before_LNT, after_LNT = rows
    return (after_LNT - before_LNT).abs().sum(-1)


def distance_overview(distances_LN: Tensor, query: int, selected: Cell) -> MapView:
    """Layer x head, coloured by pattern_distances. selected: (layer, head)."""
    layers, heads = distances_LN.shape
    panel = Panel(
        f"composed pattern of query {query}: changed from intact", distances_LN.numpy(), unit="L1 distance",
        signed=False,
    )  # fmt: skip
    return MapView(
        panels=[panel], rows=Labels("layer", [f"L{layer}" for layer in range(layers)]),
        cols=Labels("head", [f"H{head}" for head in range(heads)]), selected=selected,
    )  # fmt: skip


def changed_maps(
    intact: Mapping[str, Tensor], changed: Mapping[str, Tensor], run: Capture, selected: Cell, window: Window | None
) -> MapView:
    """One head's composed pattern intact, changed, and their difference, on one scale centred on 0.

    Args:
        intact, changed: the head's maps, as Workbench.maps gives them. selected: (query, key).
        window: the part to show, see MapView; None = all of it.
    """
    seen = np.isfinite(intact["scores_composed"].numpy())
    before, after = (np.where(seen, maps["pattern_composed"].numpy(), np.nan) for maps in (intact, changed))
    triple = {"intact": before, "changed": after, "changed - intact": after - before}
    scale = max_abs(*triple.values())
    rows, cols = window or ((0, len(run)), (0, len(run)))
    panels = [
        Panel(f"pattern, {name}", values[slice(*rows), slice(*cols)], scale=scale, unit="weight")
        for name, values in triple.items()
    ]
    return MapView(
        panels=panels, rows=Labels("query", run.str_tokens), cols=Labels("key", run.str_tokens), selected=selected,
        window=window, size=(len(run), len(run)),
    )  # fmt: skip
