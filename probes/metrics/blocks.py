"""Walking through the maps of a layer a few queries at a time, so that long contexts never become T x T x heads.

Axes: N head, T query (of the block), S key (that the block's queries may see), K d_head, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from model import Capture
from model.functional import visible
from model.threads import side_by_side

BLOCK_CELLS = 2**18
"""Cells of all heads' maps in one block: 2 MiB a map in float64, and a few maps for each thread."""

Answer = TypeVar("Answer")


class LayerOfRun:
    """One layer of one capture, with what all its blocks of queries share."""

    def __init__(self, run: Capture, layer: int):
        self.run, self.layer = run, layer

    def each(self, read: Callable[[Block], Answer], maps: Sequence[str]) -> list[Answer]:
        """What is read from each block of consecutive queries, in order; together they are all queries.

        Args:
            maps: names of the maps that it reads; only these are made.
        """
        length = max(1, BLOCK_CELLS // (self.run.cfg.n_heads * len(self.run)))
        rows = [slice(start, min(start + length, len(self.run))) for start in range(0, len(self.run), length)]
        # a block is made where it is read: one that has been read holds its maps
        return side_by_side(lambda some: read(Block(self, some, maps)), rows)

    @cached_property
    def value_norms_SN(self) -> Tensor:
        return value_norms(self.run, self.layer)


class Block:
    """Some queries of one layer, and every key that any of them may see.

    Attributes:
        rows, columns: positions of the queries and of the keys in the prompt.
        seen_TS: which keys each query may see, bool. back_TS: how many tokens back each key is.
    """

    def __init__(self, of: LayerOfRun, rows: slice, maps: Sequence[str]):
        window = of.run.cfg.keys_visible_in(of.layer)
        first = 0 if window is None else max(0, rows.start - window + 1)
        self.of, self.rows, self.columns = of, rows, slice(first, rows.stop)
        queries, keys = torch.arange(rows.start, rows.stop), torch.arange(first, rows.stop)
        self.seen_TS, self.back_TS = visible(queries, keys, window), queries[:, None] - keys[None]
        found = of.run.maps(of.layer, maps, queries=rows, keys=self.columns) if maps else {}
        self._maps = {name: values.double().masked_fill_(~self.seen_TS, 0.0) for name, values in found.items()}

    def map(self, name: str) -> Tensor:
        """One of the four maps by its name in Capture.maps, [head, query, key] in float64; 0 where nothing is seen."""
        return self._maps[name]

    def uniform(self) -> Tensor:
        """The pattern of heads that weigh all visible keys alike, [head, query, key]."""
        weights_TS = self.seen_TS.double() / self.seen_TS.sum(-1, keepdim=True)
        return weights_TS.expand(self.of.run.cfg.n_heads, -1, -1)

    @property
    def query_tokens(self) -> Tensor:
        return self.of.run.tokens[self.rows]

    @property
    def key_tokens(self) -> Tensor:
        return self.of.run.tokens[self.columns]


def value_norms(run: Capture, layer: int) -> Tensor:
    """Length of what each head would write for each key at weight 1, || v_h(j) W_O[h] ||, float64 [key, head]."""
    at = run.layers[run.layer_index(layer)]
    v_SNK, W_O = at.v.double(), at.W_O.cpu().double()
    # through the K x K product of W_O with itself: [key, head, d_model] would be large
    squares_SN = torch.einsum("snk,nkl,snl->sn", v_SNK, W_O @ W_O.mT, v_SNK)
    return squares_SN.clamp(min=0).sqrt()
