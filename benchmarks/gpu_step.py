"""The parts of one decoding step of one sequence around its attention, a launch each. Imports torch, triton alone."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from benchmarks.gpu_step_kernels import head_kernel, matvec_kernel, mixing_kernel

ACTIVATIONS = {None: 0, "silu": 1, "gelu": 2}


def matvec(
    x: Tensor, w: Tensor, *, norm: tuple[Tensor, float, bool] | None = None, gate: Tensor | None = None,
    act: str | None = None, residual: Tensor | None = None, tile: tuple[int, int, int, int] | None = None,
) -> Tensor:  # fmt: skip
    """w [rows, D] times norm(x) with x [1, 1, D], and what else matvec_kernel does; [1, 1, rows].

    norm: its weight, eps and whether it is centred. tile: rows, numbers of each, loads ahead and warps of a program; as
    measured on an H200 if not given (3.2 TB/s of the 4.2 that a copy reaches).
    """
    count, width = w.shape
    out = x.new_empty(1, 1, count)
    rows, block, stages, warps = tile or ((4, 1024, 3, 4) if width > 4096 else (8, 512, 4, 4))
    weight, eps, centred = norm or (x, 0.0, False)
    matvec_kernel[(-(-count // rows),)](
        x, weight, w, w if gate is None else gate, x if residual is None else residual, out, count, eps,
        D=width, ROWS=rows, BLOCK=min(block, triton.next_power_of_2(width)),
        NORM=0 if norm is None else 2 if centred else 1, GATED=gate is not None, ACT=ACTIVATIONS[act],
        HAS_RESIDUAL=residual is not None, STAGES=stages, num_warps=warps,
    )  # fmt: skip
    return out


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
