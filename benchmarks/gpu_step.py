"""The matrix-vector products of one decoding step of one sequence, a launch each. Imports torch, triton alone."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from benchmarks.gpu_step_kernels import matvec_kernel
from model.backends.triton_decode import early_start

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
    early = early_start(x.device)
    matvec_kernel[(-(-count // rows),)](
        x, weight, w, w if gate is None else gate, x if residual is None else residual, out, count, eps,
        D=width, ROWS=rows, BLOCK=min(block, triton.next_power_of_2(width)),
        NORM=0 if norm is None else 2 if centred else 1, GATED=gate is not None, ACT=ACTIVATIONS[act],
        HAS_RESIDUAL=residual is not None, STAGES=stages, num_warps=warps,
        **early,
    )  # fmt: skip
    return out


def stacked(weights: list[Tensor]) -> Tensor:
    """Matrices of one input as one, [rows, D]: their products are one launch."""
    return torch.cat([w.flatten(0, -2) for w in weights])
