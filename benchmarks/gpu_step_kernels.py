"""Triton kernels of one decoding step of one sequence around the attention: few launches, every weight read once.

matvec_kernel is a norm, a matrix times a vector, an activation and a residual sum; prepare_kernel is what stands
between the projections of a layer and its attention. Imports torch and triton alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def normalised(x, at, exists, weight, mean, scale, NORM: tl.constexpr):
    """Some numbers of x, float32, after the norm (NORM 0: none, 1: root mean square, 2: centred too)."""
    values = tl.load(x + at, mask=exists, other=0.0).to(tl.float32)
    if NORM > 0:
        values = (values - mean) * scale * tl.load(weight + at, mask=exists, other=0.0).to(tl.float32)
        values = values.to(x.dtype.element_ty).to(tl.float32)  # as a norm of its own would round them
    return values


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
    D: tl.constexpr, DP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr,
    GATED: tl.constexpr, ACT: tl.constexpr, HAS_RESIDUAL: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """out[n] = act(w_gate[n] . x') * (w[n] . x') or act(w[n] . x'), plus residual[n]; x' = norm(x)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    mean, scale = 0.0, 1.0
    if NORM > 0:
        every = tl.arange(0, DP)
        whole = tl.load(x + every, mask=every < D, other=0.0).to(tl.float32)
        if NORM == 2:
            mean = tl.sum(whole, 0) / D
            whole = tl.where(every < D, whole - mean, 0.0)
        scale = 1.0 / tl.sqrt(tl.sum(whole * whole, 0) / D + eps)
    sums = tl.zeros([ROWS, BLOCK], tl.float32)
    gates = tl.zeros([ROWS, BLOCK], tl.float32)
    for first in tl.range(0, D, BLOCK, num_stages=STAGES):
        d = first + tl.arange(0, BLOCK)
        exists = inside[:, None] & (d < D)[None, :]
        cell = row[:, None] * D + d[None, :]
        weights = tl.load(w + cell, mask=exists, other=0.0, eviction_policy="evict_first")
        values = normalised(x, d, d < D, norm_weight, mean, scale, NORM)[None, :]
        sums += weights.to(tl.float32) * values
        if GATED:
            gates += tl.load(w_gate + cell, mask=exists, other=0.0, eviction_policy="evict_first").to(tl.float32) * values
    result = tl.sum(sums, 1)
    if GATED:
        result *= activated(tl.sum(gates, 1), ACT)
    else:
        result = activated(result, ACT)
    if HAS_RESIDUAL:
        result += tl.load(residual + row, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row, result.to(out.dtype.element_ty), mask=inside)


ACTIVATIONS = {None: 0, "silu": 1, "gelu": 2}


def matvec(
    x: Tensor, w: Tensor, *, norm: tuple[Tensor, float, bool] | None = None, gate: Tensor | None = None,
    act: str | None = None, residual: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """w [rows, D] times norm(x) with x [1, 1, D], and what else matvec_kernel does; [1, 1, rows].

    norm: its weight, eps and whether it is centred.
    """
    count, width = w.shape
    out = x.new_empty(1, 1, count)
    rows = 8 if count > 16384 else 4
    weight, eps, centred = norm or (x, 0.0, False)
    matvec_kernel[(-(-count // rows),)](
        x, weight, w, w if gate is None else gate, x if residual is None else residual, out, count, eps,
        D=width, DP=triton.next_power_of_2(width), ROWS=rows, BLOCK=min(4096 // rows, triton.next_power_of_2(width)),
        NORM=0 if norm is None else 2 if centred else 1, GATED=gate is not None, ACT=ACTIVATIONS[act],
        HAS_RESIDUAL=residual is not None, STAGES=3, num_warps=4,
    )  # fmt: skip
    return out


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


def write_heads(
    projected: Tensor, position: Tensor, rotary: tuple[Tensor, Tensor], norms: tuple[Tensor, Tensor],
    k_cache: Tensor, v_cache: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    """Put the new key and value in their caches [1, slots, H, K]; returns the query [1, 1, H, K]."""
    _, slots, heads, d_head = k_cache.shape
    q = projected.new_empty(1, 1, heads, d_head)
    head_kernel[(heads, 3)](
        projected, position, *rotary, *norms, q, k_cache, v_cache, slots, eps,
        HEADS=heads, K=d_head, KP=triton.next_power_of_2(d_head), HALF=rotary[0].shape[-1], num_warps=1,
    )  # fmt: skip
    return q


def write_factors(
    hidden: Tensor, gates: Tensor, factor_weight: Tensor, position: Tensor, slots: int,
    key_caches: list[Tensor], eps: float,
) -> list[tuple[Tensor, Tensor, Tensor]]:  # fmt: skip
    """Put the key sides' factors in their caches, (down, up, gate) of both sites; returns all four sides' factors."""
    _, _, width, double, heads = factor_weight.shape
    rank = double // 2
    query = [
        (hidden.new_empty(1, 1, rank, heads), hidden.new_empty(1, 1, rank, heads), hidden.new_empty(1, 1, heads))
        for _ in range(2)
    ]
    keys = [(key_caches[at], key_caches[at + 1], key_caches[at + 2]) for at in (0, 3)]
    outs = [query[0], keys[0], query[1], keys[1]]
    mixing_kernel[(4, 2 * rank)](
        hidden, gates, factor_weight, position, slots, tuple(outs),
        HEADS=heads, WIDTH=width, RANK=rank, EPS=eps, num_warps=4,
    )  # fmt: skip
    return outs


def stacked(weights: list[Tensor]) -> Tensor:
    """Matrices of one input as one, [rows, D]: their products are one launch."""
    return torch.cat([w.flatten(0, -2) for w in weights])
