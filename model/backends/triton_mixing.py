"""The second layers of a layer's mixing networks for many tokens, in one launch instead of about seven.

Imports torch and triton alone. Axes: B batch, T token, C mixing network, K its hidden width, R rank, H head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.backends.triton_decode import early_start
from model.backends.triton_factor_kernels import INTERPRETED, wait_for_previous
from model.backends.triton_step_kernels import activated
from model.mixing import DOWN_NORM_EPS

TOKENS = 16
"""Of a program."""


def second_layers(
    hidden_BTP: Tensor, gates_BTP: Tensor, factor_weight_C1KRH: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """See model.mixing.second_layers. One group; K, 2 R and H powers of two, K and 2 R H at least 16; no gradients."""
    C, _, K, R2, H = factor_weight_C1KRH.shape
    if INTERPRETED.value and hidden_BTP.dtype == torch.bfloat16:  # the interpreter computes with NumPy, which has none
        wide = second_layers(hidden_BTP.float(), gates_BTP.float(), factor_weight_C1KRH.float())
        return [tuple(x.to(hidden_BTP.dtype) for x in network) for network in wide]  # type: ignore[misc]
    batch, tokens = hidden_BTP.shape[:2]
    hidden, gates = (x if x.stride(-1) == 1 else x.contiguous() for x in (hidden_BTP, gates_BTP))
    factors = hidden.new_empty(batch, tokens, C, R2, H)
    opened = hidden.new_empty(batch, tokens, C, H)
    mixing_rows_kernel[(-(-tokens // TOKENS), C, batch)](
        hidden, gates, factor_weight_C1KRH, factors, opened, tokens, *hidden.stride()[:2], *gates.stride()[:2],
        C=C, K=K, RANK=R2 // 2, HEADS=H, EPS=DOWN_NORM_EPS, BLOCK=TOKENS, num_warps=4, **early_start(hidden.device),
    )  # fmt: skip
    half = R2 // 2
    return [(factors[:, :, c, :half], factors[:, :, c, half:], opened[:, :, c]) for c in range(C)]


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
