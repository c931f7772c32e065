"""Composed attention by Triton kernels on a GPU, with the other backends behind it. Imports torch alone.

The kernels (behind triton_prefill.py, triton_decode.py) are imported at the first call, so that a machine
without Triton misses nothing. Gradients are those of compiled blocks: the forward pass runs in the kernels and keeps
the softmax divisors, from which the backward pass computes every block's maps again.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from model.backends.blockwise import attend_blockwise
from model.backends.compiled import compiled_attention, compiled_schedule
from model.backends.eager import eager_attention
from model.backends.fallbacks import fell_back
from model.backends.inputs import block_inputs
from model.backends.single_query import attend_single_query
from model.mixing import Mixing, second_layers

Result = TypeVar("Result")

_failed_on: set[str] = set()
"""Device types on which a kernel failed; none runs there again in this process."""


def triton_attention(
    q_BTHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, pre: Mixing, post: Mixing,
    visible_keys: int | None, query_start: int, key_mask_BS: Tensor | None, block_queries: int | None = None,
) -> Tensor:  # fmt: skip
    """See composed_attention. float64 runs in eager blocks: the kernels compute in float32.

    block_queries is that of the backward pass and of the blocks that run where a kernel fails.
    """
    call = q_BTHK, k_BSHK, v_BSHK, pre, post, visible_keys, query_start, key_mask_BS
    if q_BTHK.dtype == torch.float64:
        return eager_attention(*call, block_queries)
    kernels = _with_gradients if _asks_for_gradients(q_BTHK, k_BSHK, v_BSHK, pre, post) else _without_gradients
    return kernels_or_else(
        lambda: kernels(*call, block_queries), lambda: compiled_attention(*call, block_queries), q_BTHK
    )


def triton_single_query(
    q_B1HK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, pre: Mixing, post: Mixing, key_mask_BS: Tensor | None
) -> Tensor:
    """See attend_single_query, which computes float64 and gradients, and everything where a kernel fails."""
    call = q_B1HK, k_BSHK, v_BSHK, pre, post, key_mask_BS
    if q_B1HK.dtype == torch.float64 or _asks_for_gradients(q_B1HK, k_BSHK, v_BSHK, pre, post):
        return attend_single_query(*call)

    def kernels() -> Tensor:
        from model.backends.triton_decode import decode

        return decode(*call)

    return kernels_or_else(kernels, lambda: attend_single_query(*call), q_B1HK)


def triton_second_layers(
    hidden_BTP: Tensor, gates_BTP: Tensor, factor_weight_CGKRN: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """See model.mixing.second_layers, which computes what the kernel does not hold, and where it fails."""
    call = hidden_BTP, gates_BTP, factor_weight_CGKRN
    _, groups, *sizes = factor_weight_CGKRN.shape
    # the kernel computes in float32; on a GPU that is worth a launch for what tensor cores take alone
    narrow = hidden_BTP.element_size() == 2 or (hidden_BTP.element_size() == 4 and hidden_BTP.device.type == "cpu")
    held = groups == 1 and sizes[0] >= 16 and all(size & (size - 1) == 0 for size in sizes) and narrow
    if not held or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in call)):
        return second_layers(*call)

    def kernel() -> list[tuple[Tensor, Tensor, Tensor]]:
        from model.backends.triton_mixing import second_layers as in_one_launch

        return in_one_launch(*call)

    return kernels_or_else(kernel, lambda: second_layers(*call), hidden_BTP)


@functools.cache
def kernels_found(device_type: str) -> bool:
    """Can kernels run on this kind of device: a GPU with Triton installed?"""
    return device_type == "cuda" and importlib.util.find_spec("triton") is not None


def _without_gradients(*call: Any) -> Tensor:
    from model.backends.triton_prefill import prefill

    return prefill(*call[:8])[0]


def _with_gradients(
    q: Tensor, k: Tensor, v: Tensor, pre: Mixing, post: Mixing,
    visible_keys: int | None, query_start: int, key_mask: Tensor | None, block_queries: int | None,
) -> Tensor:  # fmt: skip
    from model.backends.triton_prefill import prefill

    with torch.no_grad():
        z, logs = prefill(q, k, v, pre, post, visible_keys, query_start, key_mask, with_log_divisors=True)
    assert logs is not None
    log_divisor = logs.transpose(1, 2).unflatten(-1, (pre.groups, -1))[..., None]  # [B, T, G, N, 1]
    schedule = compiled_schedule(q.device.type, visible_keys, query_start, key_mask, block_queries)
    computed = replace(schedule, computed=(z.float(), log_divisor))
    return attend_blockwise(block_inputs(q, k, v, pre, post), computed).to(v.dtype)


def _asks_for_gradients(q: Tensor, k: Tensor, v: Tensor, pre: Mixing, post: Mixing) -> bool:
    if not torch.is_grad_enabled():
        return False
    factors = [*pre.factors().values(), *post.factors().values(), pre.static, post.static]
    return any(tensor is not None and tensor.requires_grad for tensor in (q, k, v, *factors))


def kernels_or_else(kernels: Callable[[], Result], otherwise: Callable[[], Result], like: Tensor) -> Result:
    """What the kernels give, or where one fails what the other way gives, after one warning in this process."""
    device = like.device.type
    if device not in _failed_on:
        try:
            return kernels()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # Triton's own errors have no common ancestor
            _failed_on.add(device)
            reason = str(error).strip().split("\n")[0]
            fell_back(
                f"triton on {device}",
                f"The Triton kernels of composed attention cannot run on {device}; PyTorch's own kernels give the "
                f"same numbers more slowly. Reason: {type(error).__name__}: {reason}",
            )
    return otherwise()
