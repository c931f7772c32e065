"""Triton kernels of one decoding step between a layer's projections and its attention. Imports torch and triton alone.

Axes in comments: B batch, S slot of the cache, H head, R rank, K d_head, P all that is projected.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.backends.triton_decode_kernels import wait_for_previous


@triton.jit
def activated(x, KIND: tl.constexpr):
    """KIND 0: as it is, 1: SiLU, 2: GELU."""
    if KIND == 1:
        x = x / (1.0 + tl.exp(-x))
    elif KIND == 2:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    return x


@triton.jit
def head_kernel(
    projected, position, cos, sin, q_norm, k_norm, q, k_cache, v_cache, slots, projected_b, turn_b, eps,
    HEADS: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, HALF: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Query and key norm, rotary, and the new key and value in their slot of the cache: a head a program.

    cos, sin: [B, HALF], turn_b apart (0: all sequences stand at one position). slots: of the cache.
    """
    wait_for_previous(PDL)
    head, part, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    slot = batch * slots + tl.load(position) % slots
    d = tl.arange(0, KP)
    exists = d < K
    source = projected + batch * projected_b + (part * HEADS + head) * K
    x = tl.load(source + d, mask=exists, other=0.0).to(tl.float32)
    cell = (slot * HEADS + head) * K + d
    if part == 2:
        tl.store(v_cache + cell, x.to(v_cache.dtype.element_ty), mask=exists)
    else:
        scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / K + eps)
        turns = d < 2 * HALF
        partner = tl.where(d < HALF, d + HALF, tl.where(turns, d - HALF, d))
        other = tl.load(source + partner, mask=exists, other=0.0).to(tl.float32)
        norm = q_norm if part == 0 else k_norm
        x *= scale * tl.load(norm + d, mask=exists, other=0.0).to(tl.float32)
        other *= scale * tl.load(norm + partner, mask=exists, other=0.0).to(tl.float32)
        turn = batch * turn_b + d % HALF
        c = tl.load(cos + turn, mask=turns & exists, other=1.0).to(tl.float32)
        s = tl.load(sin + turn, mask=turns & exists, other=0.0).to(tl.float32)
        turned = x * c + tl.where(d < HALF, -other, other) * s
        if part == 0:
            tl.store(q + (batch * HEADS + head) * K + d, turned.to(q.dtype.element_ty), mask=exists)
        else:
            tl.store(k_cache + cell, turned.to(k_cache.dtype.element_ty), mask=exists)


@triton.jit
def mixing_kernel(
    hidden, gates, factor_weight, position, slots, hidden_b, gates_b, outs,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, RANK: tl.constexpr, EPS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The second layers of the four mixing networks: one row of factors a program, and the gates.

    outs: (down, up, gate) of pre query, pre key, post query, post key; those of keys are caches.
    """
    wait_for_previous(PDL)
    network, r, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    slot = batch * slots + tl.load(position) % slots
    head, inner = tl.arange(0, HEADS), tl.arange(0, WIDTH)
    x = tl.load(hidden + batch * hidden_b + network * WIDTH + inner).to(tl.float32)
    x = activated(x, 2).to(hidden.dtype.element_ty).to(tl.float32)
    cell = ((network * WIDTH + inner)[:, None] * 2 * RANK + r) * HEADS + head[None, :]
    row = tl.sum(tl.load(factor_weight + cell).to(tl.float32) * x[:, None], 0)
    gate = tl.load(gates + batch * gates_b + network * HEADS + head).to(tl.float32)
    gate = 1.0 - 2.0 / (tl.exp(2.0 * gate) + 1.0)  # tanh
    normed = row * (1.0 / tl.sqrt(tl.sum(row * row, 0) / HEADS + EPS))
    for side in tl.static_range(4):
        if network == side:
            down, up, gate_out = outs[side]
            place = slot if side % 2 == 1 else batch
            if r < RANK:
                tl.store(down + (place * RANK + r) * HEADS + head, normed.to(down.dtype.element_ty))
            else:
                tl.store(up + (place * RANK + r - RANK) * HEADS + head, row.to(up.dtype.element_ty))
            if r == 0:
                tl.store(gate_out + place * HEADS + head, gate.to(gate_out.dtype.element_ty))
