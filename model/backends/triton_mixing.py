"""The second layers of a layer's mixing networks for many tokens, in one launch instead of about seven.

Imports torch and triton alone. Axes: B batch, T token, C mixing network, K its hidden width, R rank, H head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.backends.triton_decode import early_start
from model.backends.triton_factor_kernels import INTERPRETED
from model.backends.triton_mixing_kernels import mixing_rows_kernel
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
