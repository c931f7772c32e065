"""What the virtual heads of one query add to a logit: all of them, one of them key by key, and the checks on both.

Axes: T position, S key, N head (source), M head (target).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from model import Capture, HookedDCFormer
from model.site_mixing import one_index
from probes.virtual_heads import logit_direction, ranked_virtual_heads


@dataclass(frozen=True)
class Attributions:
    """The virtual heads of one query along the direction of a logit (or of a difference of two).

    direction: [d_model], see probes.virtual_heads.logit_direction.
    table: every virtual head of every layer, the largest first; columns as ranked_virtual_heads gives them.
    matrices: layer -> attribution of each virtual head in logits, [N, M].
    direct: layer -> attribution of the layer's attention output as a whole, from the composed pattern, in logits.
    """

    direction: Tensor
    table: pd.DataFrame
    matrices: Mapping[int, np.ndarray]
    direct: Mapping[int, float]

    def sum_of_pieces(self, layer: int) -> float:
        """Of all virtual heads of a layer, in logits; equals direct up to rounding."""
        return float(self.matrices[layer].sum())

    @property
    def largest_error(self) -> float:
        """Largest difference between a layer's sum of pieces and its direct attribution, in logits."""
        return max(abs(self.sum_of_pieces(layer) - direct) for layer, direct in self.direct.items())

    @property
    def largest(self) -> tuple[int, int, int]:
        """(layer, source, target) of the virtual head of largest |attribution|."""
        layer, source, target = (int(self.table[name].iloc[0]) for name in ("layer", "source", "target"))
        return layer, source, target


@dataclass(frozen=True)
class HeadKeys:
    """One virtual head at one query, key by key, over the keys that the query sees, oldest first.

    keys: their positions. pattern: raw, of the source head. mixing: M_post[source, target](query, key).
    attribution: what the head carries from each key along the direction, in logits; sums to its attribution.
    """

    keys: slice
    pattern: np.ndarray
    mixing: np.ndarray
    attribution: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        """Weight of each key's value: pattern times mixing, [S]."""
        return self.pattern * self.mixing

    def over(self, length: int) -> np.ndarray:
        """weight of each position of a prompt of this length, [T]; nan where the query does not see it."""
        whole = np.full(length, np.nan)
        whole[self.keys] = self.weight
        return whole

    @property
    def strongest(self) -> int:
        """Position of the key with the largest |attribution|."""
        return self.keys.start + int(np.abs(self.attribution).argmax())


def attribute_logit(
    model: HookedDCFormer, run: Capture, query: int, token: int, contrast: int | None = None
) -> Attributions:
    """Take the attention of every layer apart at one query, along the direction of a token's logit.

    Args:
        token, contrast: ids; the contrast's logit is subtracted.
    Raises:
        ValueError: a query or token that does not exist.
    """
    direction = logit_direction(model, run, query, token, contrast)
    table, heads = ranked_virtual_heads(run, query, direction, count=None), run.cfg.n_heads
    matrices, direct = {}, {}
    for layer in sorted(run.layers):
        pieces = table[table.layer == layer].sort_values(["source", "target"])
        matrices[layer] = pieces.attribution.to_numpy().reshape(heads, heads)
        direct[layer] = _direct(run, layer, query, direction)
    return Attributions(direction, table, matrices, direct)


def _direct(run: Capture, layer: int, query: int, direction: Tensor) -> float:
    """Attribution of a layer's attention output without b_O, taken whole: composed pattern times values."""
    values_SM = run.layers[layer].values_along(run.keys_seen(layer, query), direction)
    return float(torch.einsum("ms,sm->", run.row(layer, "pattern_composed", query).double(), values_SM))


def head_keys(run: Capture, layer: int, query: int, source: int, target: int, direction: Tensor) -> HeadKeys:
    """One virtual head at one query, key by key.

    Raises:
        ValueError: a layer, query or head that does not exist.
    """
    layer, keys = run.layer_index(layer), run.keys_seen(layer, query)
    source, target = (one_index(head, run.cfg.n_heads, "head") for head in (source, target))
    pattern_S = run.row(layer, "pattern_raw", query)[source].double()
    mixing_S = run.mixing(layer, "post").row(query)[:, source, target].double()
    values_S = run.layers[layer].values_along(keys, direction)[:, target]
    return HeadKeys(keys, *(x.numpy() for x in (pattern_S, mixing_S, pattern_S * mixing_S * values_S)))


def likely_tokens(run: Capture, query: int, count: int = 20) -> dict[int, float]:
    """Ids of the most likely next tokens after a position and their probabilities, the likeliest first.

    Raises:
        ValueError: a capture without logits.
    """
    if run.logits is None:
        raise ValueError("This capture was made without logits. Capture again with logits=True.")
    values, ids = run.logits[query].softmax(-1).topk(min(count, run.logits.shape[-1]))
    return dict(zip(ids.tolist(), values.tolist(), strict=True))
