"""The Triton kernel of a decoding step's matrix-vector products, with the norm before and the activation after them.

Imports torch and triton alone.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.backends.triton_decode_kernels import wait_for_previous
from model.backends.triton_step_kernels import activated


@triton.jit
def matvec_kernel(
    x, norm_weight, w, w_gate, residual, out, rows, eps,
    D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, NORM: tl.constexpr,
    GATED: tl.constexpr, ACT: tl.constexpr, HAS_RESIDUAL: tl.constexpr, STAGES: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """out[n] = act(w_gate[n] . x') * (w[n] . x') or act(w[n] . x'), plus residual[n]; x' = norm(x).

    NORM 0: none, 1: root mean square, 2: centred too. The norm's mean and scale come out of the same loop and are
    applied at its end, so that no weight waits for them.
    """
    wait_for_previous(PDL)
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
