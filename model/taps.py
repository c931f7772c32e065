"""Taps: functions that read, or change, what each layer attends with. The same in the hooked model and in the engine.

A hook sees one tensor by name; a tap sees a layer's queries, keys, values and whole mixing together, at any length,
because it needs no map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from model.mixing import Mixing


@dataclass
class LayerActivations:
    """What a tap sees of one layer in one step, before attention; replacing any of them changes the run.

    q, k: as they enter the dot product, [batch, pos, head, d_head]. v: values. mixing: by site, for the new tokens.
    key_mask: bool [batch, earlier and new tokens], False on padding; None = no padding. past: tokens of earlier steps.
    whole: are these all the tokens there will be? False in cached decoding, its first step included.
    """

    layer: int
    q: Tensor
    k: Tensor
    v: Tensor
    mixing: dict[str, Mixing]
    key_mask: Tensor | None = None
    past: int = 0
    whole: bool = True

    def positions(self) -> Tensor:
        """Of each new token in its own prompt, counted from 0, [batch or 1, pos]; -1 on padding."""
        new = self.q.shape[1]
        if self.key_mask is None:
            return torch.arange(self.past, self.past + new, device=self.q.device)[None]
        counted = self.key_mask.long().cumsum(1) - 1
        return counted.masked_fill(~self.key_mask, -1)[:, self.past :]


Tap = Callable[[LayerActivations], None]


class Taps:
    """The taps of a model, which its engines share: who changes a model changes what every way of running it gives."""

    def __init__(self) -> None:
        self._taps: list[Tap] = []

    def __call__(self, at: LayerActivations) -> LayerActivations:
        """Pass a layer's activations through every tap, in the order in which they were added."""
        for tap in self._taps:
            tap(at)
        return at

    @property
    def count(self) -> int:
        """How many functions are called on every layer now."""
        return len(self._taps)

    @contextmanager
    def added(self, *taps: Tap) -> Iterator[None]:
        """Have these taps called for as long as the context lasts, after those that are there already."""
        before = list(self._taps)
        self._taps.extend(taps)
        try:
            yield
        finally:
            self._taps[:] = before
