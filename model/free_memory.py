"""Refusing what will not fit before it is tried, and saying plainly when memory runs out all the same."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from model.config import DCFormerConfig, dtype_name
from model.memory import MODEL_PARTS, MemoryPlan, Parts, Run, engine_peak, in_words

CHECK_FROM = 2**30
"""Bytes beside the weights from which a run of the engine is compared with what is free before it starts."""


class WillNotFit(ValueError):
    """A run needs more memory than is free: what it needs, what is free, and which setting to lower."""


def free_memory(device: str | torch.device) -> int:
    """Bytes that a run on this device may still take, what PyTorch holds in reserve there included."""
    device = torch.device(device)
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    # MPS shares the main memory
    return psutil.virtual_memory().available


def require_fit(planned: MemoryPlan, device: str | torch.device, free_bytes: int | None = None) -> None:
    """Refuse a plan that needs more than is free.

    Args:
        free_bytes: on the device, where it is not here to be asked; main memory is then not looked at.
    Raises:
        WillNotFit: naming what is needed and free, the largest parts, and the settings to lower.
    """
    places = [(planned.parts, str(device), free_memory(device) if free_bytes is None else free_bytes)]
    if free_bytes is None:
        places.append((planned.in_main_memory, "cpu", free_memory("cpu")))
    for parts, place, room in places:
        if (needed := sum(parts.values())) > room:
            beside = "" if "weights" in parts else " beside the weights"
            raise WillNotFit(
                f"A {planned.run} needs {in_words(needed)} on {place}{beside}, but {in_words(room)} are free; the "
                f"largest parts are {_largest(parts)}. {_advice(planned.run, parts, room)}"
            )


@contextmanager
def guard(
    cfg: DCFormerConfig, mode: str, *, batch: int, tokens: int, past: int = 0, device: torch.device, **settings: Any
) -> Iterator[None]:
    """Around a run of the engine: refuse it first if it is large and will not fit, and say so if memory runs out.

    Args:
        mode: as for Run. tokens: new ones; past: those whose keys are cached.
        settings: further fields of Run.
    Raises:
        WillNotFit: as one sentence, with the tensors of the failed run let go.
    """
    run = Run(cfg, mode, batch, tokens, past + tokens, cfg.dtype, device.type, **settings)
    planned = MemoryPlan(run, *engine_peak(run), {})
    if planned.total >= CHECK_FROM:
        require_fit(planned, device)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        # the frames of the failed run hold its tensors for as long as someone keeps the error
        traceback.clear_frames(error.__traceback__)
        free = free_memory(device)
        raise WillNotFit(
            f"Memory ran out on {device}: a {run} takes about {in_words(planned.total)} beside the weights, and "
            f"{in_words(free)} are free. {_advice(run, planned.parts, free)}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Does this error of PyTorch say that memory could not be had?"""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return any(said in text for said in ("can't allocate memory", "out of memory", "bad_alloc"))


def _largest(parts: Parts, shown: int = 3) -> str:
    ordered = sorted(parts.items(), key=lambda part: -part[1])[:shown]
    return ", ".join(f"{name} {in_words(size)}" for name, size in ordered)


def _advice(run: Run, parts: Parts, free: int) -> str:
    """Which settings to lower, those that help most first."""
    ways = []
    model = sum(size for name, size in parts.items() if name in MODEL_PARTS)
    if model < free:
        if run.mode == "logits":
            ways.append("ask for the last position's logits only (last=True)")
        if any("capture" in name for name in parts):
            ways.append("capture fewer layers or no logits (logits=False)")
        settings = (("batch", run.batch), ("tokens", run.tokens))
        ways += [f"lower {name} ({value})" for name, value in settings if value > 1]
    if run.dtype.itemsize > 2:
        ways.append(f"use a narrower dtype than {dtype_name(run.dtype)}")
    if 2 * model > free:
        ways.append("take a smaller model")
    advice = ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} or {ways[-1]}"
    return f"{advice[0].upper()}{advice[1:]}."
