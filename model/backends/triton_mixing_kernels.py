"""Triton kernel of the mixing networks' second layers for many tokens. Imports torch and triton alone.

Axes in comments: C mixing network, K its hidden width, R rank, H head.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.backends.triton_decode_kernels import wait_for_previous
from model.backends.triton_step_kernels import activated


@triton.jit
def mixing_rows_kernel(
    hidden, gates, factor_weight, factors, opened, tokens, hidden_b, hidden_t, gates_b, gates_t,
    C: tl.constexpr, K: tl.constexpr, RANK: tl.constexpr, HEADS: tl.constexpr, EPS: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One network's factors and gates of a block of tokens. factor_weight [C, K, 2 R, H]: down, then up."""
    wait_for_previous(PDL)
    WIDTH: tl.constexpr = 2 * RANK * HEADS
    network, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = (token < tokens)[:, None]
    inner, column, head = tl.arange(0, K), tl.arange(0, WIDTH), tl.arange(0, HEADS)
    x = hidden + batch * hidden_b + token[:, None] * hidden_t + (network * K + inner)[None, :]
    x = activated(tl.load(x, exists, other=0.0).to(tl.float32), 2).to(hidden.dtype.element_ty)
    weight = tl.load(factor_weight + (network * K + inner)[:, None] * WIDTH + column[None, :])
    rows = tl.reshape(tl.dot(x, weight, input_precision="ieee"), [BLOCK, 2 * RANK, HEADS])
    scale = 1.0 / tl.sqrt(tl.sum(rows * rows, 2) / HEADS + EPS)
    scale = tl.where((tl.arange(0, 2 * RANK) < RANK)[None, :], scale, 1.0)  # only down is normalised
    rows = tl.reshape(rows * scale[:, :, None], [BLOCK, WIDTH]).to(factors.dtype.element_ty)
    place = (batch * tokens + token) * C + network
    tl.store(factors + place[:, None] * WIDTH + column[None, :], rows, exists)
    gate = gates + batch * gates_b + token[:, None] * gates_t + (network * HEADS + head)[None, :]
    gate = tl.load(gate, exists, other=0.0).to(tl.float32)
    gate = 1.0 - 2.0 / (tl.exp(2.0 * gate) + 1.0)  # tanh
    tl.store(opened + place[:, None] * HEADS + head[None, :], gate.to(opened.dtype.element_ty), exists)
