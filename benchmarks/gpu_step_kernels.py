"""Triton kernels of one decoding step of one sequence around the attention: few launches, every weight read once.

matvec_kernel is a norm, a matrix times a vector, an activation and a residual sum; head_kernel and mixing_kernel stand
between the projections of a layer and its attention. Imports torch and triton alone.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activated(x, KIND: tl.constexpr):
    """KIND 0: as it is, 1: SiLU, 2: GELU."""
    if KIND == 1:
        x = x / (1.0 + tl.exp(-x))
    elif KIND == 2:
        x = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    return x


@triton.jit
def matvec_kernel(
    x, norm_weight, w, w_gate, residual, out, rows, eps,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr,
    GATED: tl.constexpr, ACT: tl.constexpr, HAS_RESIDUAL: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """out[n] = act(w_gate[n] . x') * (w[n] . x') or act(w[n] . x'), plus residual[n]; x' = norm(x).

    NORM 0: none, 1: root mean square, 2: centred too. The norm's mean and scale come out of the same loop and are
    applied at its end, so that no weight waits for them.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    sums = tl.zeros([ROWS, BLOCK], tl.float32)
    gates = tl.zeros([ROWS, BLOCK], tl.float32)
    plain = tl.zeros([ROWS, BLOCK], tl.float32)  # what the mean is to be multiplied by
    plain_gates = tl.zeros([ROWS, BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for first in tl.range(0, D, BLOCK, num_stages=STAGES):
        d = first + tl.arange(0, BLOCK)
        exists = inside[:, None] & (d < D)[None, :]
        cell = row[:, None] * D + d[None, :]
        weights = tl.load(w + cell, mask=exists, other=0.0, eviction_policy="evict_first").to(tl.float32)
        if GATED:
            others = tl.load(w_gate + cell, mask=exists, other=0.0, eviction_policy="evict_first").to(tl.float32)
        values = tl.load(x + d, mask=d < D, other=0.0).to(tl.float32)
        if NORM > 0:
            squares += values * values
            scaled = tl.load(norm_weight + d, mask=d < D, other=0.0).to(tl.float32)
            if NORM == 2:
                total += values
                plain += weights * scaled[None, :]
                if GATED:
                    plain_gates += others * scaled[None, :]
            values *= scaled
        sums += weights * values[None, :]
        if GATED:
            gates += others * values[None, :]
    result, gate = tl.sum(sums, 1), tl.sum(gates, 1)
    if NORM > 0:
        mean = tl.sum(total, 0) / D
        scale = 1.0 / tl.sqrt(tl.sum(squares, 0) / D - mean * mean + eps)
        result = (result - mean * tl.sum(plain, 1)) * scale
        gate = (gate - mean * tl.sum(plain_gates, 1)) * scale
    result = result * activated(gate, ACT) if GATED else activated(result, ACT)
    if HAS_RESIDUAL:
        result += tl.load(residual + row, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def head_kernel(
    projected, position, cos, sin, q_norm, k_norm, q, k_cache, v_cache, slots, eps,
    HEADS: tl.constexpr, K: tl.constexpr, KP: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    """Query and key norm, rotary, and the new key and value in their slot of the cache: a head a program."""
    head, part = tl.program_id(0), tl.program_id(1)
    at = tl.load(position)
    slot = at % slots
    d = tl.arange(0, KP)
    exists = d < K
    source = projected + (part * HEADS + head) * K
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
        c = tl.load(cos + at * HALF + d % HALF, mask=turns & exists, other=1.0).to(tl.float32)
        s = tl.load(sin + at * HALF + d % HALF, mask=turns & exists, other=0.0).to(tl.float32)
        turned = x * c + tl.where(d < HALF, -other, other) * s
        if part == 0:
            tl.store(q + head * K + d, turned.to(q.dtype.element_ty), mask=exists)
        else:
            tl.store(k_cache + cell, turned.to(k_cache.dtype.element_ty), mask=exists)


@triton.jit
def mixing_kernel(
    hidden, gates, factor_weight, position, slots, outs,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, RANK: tl.constexpr, EPS: tl.constexpr,
):  # fmt: skip
    """The second layers of the four mixing networks: one row of factors a program, and the gates.

    outs: (down, up, gate) of pre query, pre key, post query, post key; those of keys are caches.
    """
    network, r = tl.program_id(0), tl.program_id(1)
    slot = tl.load(position) % slots
    head, inner = tl.arange(0, HEADS), tl.arange(0, WIDTH)
    x = tl.load(hidden + network * WIDTH + inner).to(tl.float32)
    x = activated(x, 2).to(hidden.dtype.element_ty).to(tl.float32)
    cell = ((network * WIDTH + inner)[:, None] * 2 * RANK + r) * HEADS + head[None, :]
    row = tl.sum(tl.load(factor_weight + cell).to(tl.float32) * x[:, None], 0)
    gate = tl.load(gates + network * HEADS + head).to(tl.float32)
    gate = 1.0 - 2.0 / (tl.exp(2.0 * gate) + 1.0)  # tanh
    normed = row * (1.0 / tl.sqrt(tl.sum(row * row, 0) / HEADS + EPS))
    for side in tl.static_range(4):
        if network == side:
            down, up, gate_out = outs[side]
            place = slot if side % 2 == 1 else 0
            if r < RANK:
                tl.store(down + (place * RANK + r) * HEADS + head, normed.to(down.dtype.element_ty))
            else:
                tl.store(up + (place * RANK + r - RANK) * HEADS + head, row.to(up.dtype.element_ty))
            if r == 0:
                tl.store(gate_out + place * HEADS + head, gate.to(gate_out.dtype.element_ty))
