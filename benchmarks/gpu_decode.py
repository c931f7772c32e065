"""Decoding with the models of gpu_layers.py: one token a step, everything on the GPU, so a CUDA graph can hold a step.

Axes: B batch, S key, H head, K d_head, D d_model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu_layers import Factors, Stack, fused_attention, mixings
from model.backends import composed_attention
from model.functional import rotary_tables


class Decoder:
    """Keys of one sequence cached for `context` tokens and `room` more; local layers keep a ring of their window.

    The cache is filled with random numbers: what is measured does not depend on them.
    """

    def __init__(self, stack: Stack, composed: bool, context: int, room: int):
        self.stack, self.composed, self.capacity = stack, composed, context + room
        device, shape = stack.device, stack.shape
        self.position = torch.full((1,), context, device=device)
        self.token = torch.zeros(1, dtype=torch.long, device=device)
        every = torch.arange(self.capacity, device=device)[None]
        self.cos, self.sin = rotary_tables(every, shape.rotary_width, 10000.0, torch.bfloat16)
        self.caches = [self._cache(layer) for layer in range(len(stack.layers))]

    def _slots(self, layer: int) -> int:
        return min(self.capacity, self.stack.shape.visible_keys(layer) or self.capacity)

    def _cache(self, layer: int) -> list[Tensor]:
        """k, v and, composed, down, up and gate of the key side of both sites."""
        shape, slots = self.stack.shape, self._slots(layer)
        sizes: list[tuple[int, ...]] = [(shape.heads, shape.d_head)] * 2
        if self.composed:
            sizes += [(shape.rank, shape.heads), (shape.rank, shape.heads), (shape.heads,)] * 2
        device = self.stack.device
        return [torch.randn((1, slots, *size), device=device, dtype=torch.bfloat16) / 4 for size in sizes]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for cache in self.caches for part in cache)

    @torch.no_grad()
    def step(self) -> Tensor:
        """Write the next token's keys, attend over all, and choose the token after it; returns it, [1]."""
        stack = self.stack
        cos, sin = (table.index_select(1, self.position) for table in (self.cos, self.sin))
        resid = torch.nn.functional.embedding(self.token[None], stack.embedding)
        for layer in range(len(stack.layers)):
            w = stack.weights(layer, self.composed)
            q, k, v, factors = stack.before(stack.shape, w, resid, cos, sin)
            resid = stack.after(stack.shape, w, resid, self._attend(layer, q, k, v, factors))
        self.token.copy_(stack.logits(resid[:, -1]).argmax(-1))
        self.position.add_(1)
        return self.token

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, factors: Factors) -> Tensor:
        cache, slots = self.caches[layer], self._slots(layer)
        new = [k, v, *(factors[1] + factors[3] if self.composed else ())]
        for kept, value in zip(cache, new, strict=True):
            kept.index_copy_(1, self.position % slots, value)
        # a ring that is full shows all of its slots
        mask = torch.arange(slots, device=q.device)[None] <= self.position
        if not self.composed:
            return fused_attention(q, cache[0], cache[1], mask[:, None, None])
        seen = [factors[0], tuple(cache[2:5]), factors[2], tuple(cache[5:8])]
        pre, post = mixings(self.stack.shape.heads, seen)  # type: ignore[arg-type]
        return composed_attention(
            q, cache[0], cache[1], pre, post, query_start=slots - 1, key_mask_BS=mask, backend="triton"
        )
