"""Decoding with the models of gpu_layers.py: one token a step, everything on the GPU, so a CUDA graph can hold a step.

Two ways that give the same: fused, by the kernels of gpu_step_kernels.py, and by the functions that prefill uses.
Axes: B batch, S key, H head, K d_head, D d_model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu_layers import Factors, Stack, Weights, factors_of, fused_attention, mixings
from benchmarks.gpu_step import matvec, stacked
from model.backends import composed_attention
from model.backends.triton_step import write_factors, write_heads
from model.functional import QK_NORM_EPS, rotary_tables
from model.mixing import DOWN_NORM_EPS


class Decoder:
    """Keys of one sequence cached for `context` tokens and `room` more; local layers keep a ring of their window.

    The cache is filled with random numbers: what is measured does not depend on them.
    """

    def __init__(self, stack: Stack, composed: bool, context: int, room: int, fused: bool = True):
        self.stack, self.composed, self.capacity = stack, composed, context + room
        device, shape = stack.device, stack.shape
        self.position = torch.full((1,), context, device=device)
        self.token = torch.zeros(1, dtype=torch.long, device=device)
        every = torch.arange(self.capacity, device=device)[None]
        self.cos, self.sin = rotary_tables(every, shape.rotary_width, 10000.0, stack.dtype)
        self.caches = [self._cache(layer) for layer in range(len(stack.layers))]
        inward = ["wqkv", "mix_in"] if composed else ["wqkv"]
        self.inward = [stacked([w[name] for name in inward]) for w in stack.layers] if fused else None

    def _slots(self, layer: int) -> int:
        return min(self.capacity, self.stack.shape.visible_keys(layer) or self.capacity)

    def _cache(self, layer: int) -> list[Tensor]:
        """k, v and, composed, down, up and gate of the key side of both sites."""
        shape, slots = self.stack.shape, self._slots(layer)
        sizes: list[tuple[int, ...]] = [(shape.heads, shape.d_head)] * 2
        if self.composed:
            sizes += [(shape.rank, shape.heads), (shape.rank, shape.heads), (shape.heads,)] * 2
        device = self.stack.device
        return [torch.randn((1, slots, *size), device=device, dtype=self.stack.dtype) / 4 for size in sizes]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for cache in self.caches for part in cache)

    @torch.no_grad()
    def step(self) -> Tensor:
        """Write the next token's keys, attend over all, and choose the token after it; returns it, [1]."""
        self.token.copy_(self.logits().argmax(-1))
        self.position.add_(1)
        return self.token

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Logits after the token that stands in self.token, [1, vocabulary]; its keys are in the cache."""
        stack, slots = self.stack, {self._slots(layer) for layer in range(len(self.caches))}
        # a ring that is full shows all of its slots
        masks = {n: torch.arange(n, device=stack.device)[None] <= self.position for n in slots}
        resid = torch.nn.functional.embedding(self.token[None], stack.embedding)
        if self.inward is None:
            for layer in range(len(stack.layers)):
                resid = self._layer(layer, stack.weights(layer, self.composed), resid, masks[self._slots(layer)])
            return stack.logits(resid[:, -1])
        cos, sin = (table.index_select(1, self.position) for table in (self.cos, self.sin))
        for layer, inward in enumerate(self.inward):
            weights, mask = stack.layers[layer], masks[self._slots(layer)]
            resid = self._fused_layer(layer, weights, inward, resid, mask, (cos, sin))
        return matvec(resid, stack.unembedding, norm=self._norm(stack.final_norm))[:, 0]

    def _layer(self, layer: int, w: Weights, resid: Tensor, mask: Tensor) -> Tensor:
        stack, slots = self.stack, self._slots(layer)
        cos, sin = (table.index_select(1, self.position) for table in (self.cos, self.sin))
        q, k, v, mixed = stack.before(stack.shape, w, resid, cos, sin)
        factors = factors_of(stack.shape, w, mixed, "eager")
        new = [k, v, *(factors[1] + factors[3] if self.composed else ())]
        for kept, value in zip(self.caches[layer], new, strict=True):
            kept.index_copy_(1, self.position % slots, value)
        return stack.after(stack.shape, w, resid, self._attend(layer, q, factors, mask))

    def _fused_layer(
        self, layer: int, w: Weights, inward: Tensor, resid: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> Tensor:
        shape, cache = self.stack.shape, self.caches[layer]
        projected = matvec(resid, inward, norm=self._norm(w["norm_1"]))[0]
        norms = w["q_norm"], w["k_norm"]
        q = write_heads(projected, self.position, rotary, norms, cache[0], cache[1], QK_NORM_EPS)
        factors: Factors = []
        if self.composed:
            after, gates = 3 * shape.d_model, 4 * shape.heads
            keys = [(cache[at], cache[at + 1], cache[at + 2]) for at in (2, 5)]
            hidden, last = projected[:, after:-gates], projected[:, -gates:]
            query = write_factors(hidden, last, w["mix_factors"], self.position, keys, DOWN_NORM_EPS)
            factors = [query[0], keys[0], query[1], keys[1]]
        z = self._attend(layer, q, factors, mask).flatten(2)
        middle = matvec(z, w["wo"], residual=resid)
        x = resid if shape.parallel else middle
        gate = w["w_gate"] if shape.gated else None
        post = matvec(x, w["w_in"], norm=self._norm(w["norm_2"]), gate=gate, act=shape.act_fn)
        return matvec(post, w["w_out"], residual=middle)

    def _norm(self, weight: Tensor) -> tuple[Tensor, float, bool]:
        centred = self.stack.shape.centred_norm
        return weight, 1e-5 if centred else 1e-6, centred

    def _attend(self, layer: int, q: Tensor, factors: Factors, mask: Tensor) -> Tensor:
        cache = self.caches[layer]
        if not self.composed:
            return fused_attention(q, cache[0], cache[1], mask[:, None, None])
        seen = [factors[0], tuple(cache[2:5]), factors[2], tuple(cache[5:8])]
        pre, post = mixings(self.stack.shape.heads, seen)  # type: ignore[arg-type]
        return composed_attention(
            q, cache[0], cache[1], pre, post, query_start=self._slots(layer) - 1, key_mask_BS=mask, backend="triton"
        )
