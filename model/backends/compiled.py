"""Composed attention whose blocks run as one compiled graph each way (torch.compile): the mixing of heads is fused
with the mask and the softmax. Imports torch alone.

Every graph takes one sequence, a fixed number of queries and any number of keys, so new lengths, windows, batch
sizes and padding use the graphs of the first call: one each way for each architecture and dtype.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model.backends.block_math import BlockGradients, attend_block, attend_block_backward
from model.backends.blockwise import Schedule, attend_blockwise
from model.backends.fallbacks import fell_back
from model.backends.inputs import Inputs, block_inputs
from model.mixing import Mixing

ALIGN = 16
"""Keys of a block are a multiple of this: one AVX-512 register of float32."""

BLOCK_QUERIES = {"cpu": 64}
"""Queries in every block, by device (256 elsewhere): enough to fill a matrix product, few enough for the cache."""

GRAPHS = 128
"""How many architectures and dtypes may be compiled in one process."""


def compiled_attention(
    q_BTNK: Tensor, k_BSNK: Tensor, v_BSNK: Tensor, pre: Mixing, post: Mixing,
    visible_keys: int | None, query_start: int, key_mask_BS: Tensor | None, block_queries: int | None = None,
) -> Tensor:  # fmt: skip
    """See composed_attention. Where compilation fails, blocks run in eager PyTorch after one warning."""
    schedule = compiled_schedule(q_BTNK.device.type, visible_keys, query_start, key_mask_BS, block_queries)
    return attend_blockwise(block_inputs(q_BTNK, k_BSNK, v_BSNK, pre, post), schedule).to(v_BSNK.dtype)


def compiled_schedule(
    device_type: str, visible_keys: int | None, query_start: int, key_mask_BS: Tensor | None, block_queries: int | None
) -> Schedule:
    """One sequence and a fixed number of queries a block, each way one graph."""
    return Schedule(
        _attend, _attend_backward, visible_keys, query_start, key_mask_BS,
        block_queries=block_queries or BLOCK_QUERIES.get(device_type, 256), block_batch=1, align=ALIGN,
    )  # fmt: skip


@functools.cache
def compiler_found(device_type: str) -> bool:
    """Is there what torch.compile needs on this kind of device: a C++ compiler, or on a GPU Triton?"""
    if device_type == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)
    return device_type == "cuda" and importlib.util.find_spec("triton") is not None


def attend_sequence(block: Inputs, seen_TS: Tensor) -> tuple[Tensor, Tensor]:
    """attend_block of one sequence given without its batch axis, whose stride would tie a graph to one length."""
    return attend_block(block.map(_as_batch), seen_TS[None])


def attend_sequence_backward(block: Inputs, seen_TS: Tensor, log_divisor: Tensor, z_grad: Tensor) -> BlockGradients:
    """attend_block_backward of one sequence given without its batch axis."""
    return attend_block_backward(block.map(_as_batch), seen_TS[None], log_divisor[None], z_grad[None])


def _as_batch(part: Tensor) -> Tensor:
    return part[None]


def _attend(block: Inputs, seen: Tensor) -> tuple[Tensor, Tensor]:
    return _run(attend_sequence, *_one_sequence(block, seen))


def _attend_backward(block: Inputs, seen: Tensor, log_divisor: Tensor, z_grad: Tensor) -> BlockGradients:
    return _run(attend_sequence_backward, *_one_sequence(block, seen), log_divisor[0], z_grad[0])


def _one_sequence(block: Inputs, seen: Tensor) -> tuple[Inputs, Tensor]:
    """The only sequence of a block, laid out alike at every length, with its number of keys marked as varying."""
    sequence, seen_TS = block.map(lambda part: part[0].contiguous()), seen[0]
    torch._dynamo.mark_dynamic(sequence.k, 0)
    torch._dynamo.mark_dynamic(sequence.v, 0)
    torch._dynamo.mark_dynamic(seen_TS, 1)
    for part in (*sequence.pre[1:], *sequence.post[1:]):
        if part is not None:
            torch._dynamo.mark_dynamic(part, part.ndim - 1)
    return sequence, seen_TS


_failed_on: set[str] = set()
"""Device types on which a compilation failed; nothing is compiled for them again in this process."""


def _run(function: Callable[..., Any], block: Inputs, *others: Tensor) -> Any:
    """A function's compiled graph, or where that cannot be made the function itself: the same numbers, slower."""
    device = block.q.device.type
    if device not in _failed_on:
        try:
            return _graph(function)(block, *others)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, OSError) as error:
            _failed_on.add(device)
            # the first line often names only the compiler, the second its complaint
            reason = " ".join(str(error).split("\n")[:2])
            fell_back(
                f"compiled on {device}",
                f"Composed attention could not be compiled for {device} and runs uncompiled, which gives the same "
                f"numbers more slowly. Reason: {type(error).__name__}: {reason}",
            )
    return function(block, *others)


@functools.cache
def _graph(function: Callable[..., Any]) -> Callable[..., Any]:
    # torch's limit of 8 is meant to catch a graph that is made anew for every shape
    torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    return torch.compile(function, fullgraph=True)
