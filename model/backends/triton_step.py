"""What stands between a layer's projections and its attention in a decoding step, in two launches instead of forty.

Imports torch and triton alone. Axes: B batch, S slot of the cache, H head, R rank, K d_head, C mixing network.
"""

from __future__ import annotations

import triton
from torch import Tensor

from model.backends.triton_decode import early_start
from model.backends.triton_step_kernels import head_kernel, mixing_kernel

Factors = tuple[Tensor, Tensor, Tensor]
"""Down, up and gate of one side of one site."""


def write_heads(
    projected: Tensor, position: Tensor, rotary: tuple[Tensor, Tensor], norms: tuple[Tensor, Tensor],
    k_cache: Tensor, v_cache: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    """Put the new key and value in their caches [B, S, H, K], and return the query [B, 1, H, K].

    Args:
        projected: q, k and v before their norms, [B, 3 H K], rows of any stride.
        position: of the new token, [1]; its slot is the remainder by S.
        rotary: cos and sin, [B or 1, 1, half of the width that turns]. norms: weights of the query and key norm.
    """
    batch, slots, heads, d_head = k_cache.shape
    q = projected.new_empty(batch, 1, heads, d_head)
    cos, sin = (table.contiguous() for table in rotary)
    half = cos.shape[-1]
    head_kernel[(heads, 3, batch)](
        projected, position, cos, sin, *norms, q, k_cache, v_cache, slots, projected.stride(0),
        half if len(cos) > 1 else 0, eps,
        HEADS=heads, K=d_head, KP=triton.next_power_of_2(d_head), HALF=half, num_warps=1, **early_start(q.device),
    )  # fmt: skip
    return q


def write_factors(
    hidden: Tensor, gates: Tensor, factor_weight: Tensor, position: Tensor, key_caches: list[Factors], eps: float
) -> list[Factors]:
    """Put the key sides' factors of both sites in their caches, and return the query sides' factors.

    Args:
        hidden: first layers of the networks before GELU, [B, C K]. gates: before tanh, [B, C H]. Rows of any stride.
        factor_weight: [C, 1, K, 2R, H], of pre query, pre key, post query, post key; K and H powers of two.
        key_caches: of pre and post: down and up [B, S, R, H], gate [B, S, H].
    """
    _, _, width, double, heads = factor_weight.shape
    rank, (batch, slots) = double // 2, key_caches[0][2].shape[:2]
    query = [
        tuple(hidden.new_empty(batch, 1, *size) for size in ((rank, heads), (rank, heads), (heads,))) for _ in range(2)
    ]
    mixing_kernel[(4, 2 * rank, batch)](
        hidden, gates, factor_weight, position, slots, hidden.stride(0), gates.stride(0),
        (query[0], key_caches[0], query[1], key_caches[1]),
        HEADS=heads, WIDTH=width, RANK=rank, EPS=eps, num_warps=4, **early_start(hidden.device),
    )  # fmt: skip
    return query  # type: ignore[return-value]
