"""Models larger than one GPU: whole blocks on several, each block's input moved to where its weights are.

accelerate's hooks move the activations of the hooked model. Which block goes where is decided here, because its own
function for that fails on tied embeddings. The engine, which calls no module, moves activations itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import dispatch_model

from model.checkpoints.errors import ModelLoadError
from model.config import dtype_name
from model.free_memory import free_memory
from model.memory import Run, engine_peak, in_words
from model.transformer import HookedDCFormer

DeviceMap = dict[str, int | str]
"""A module's name, or the start of it -> the GPU (or "cpu") that holds all below it."""


def free_gpus() -> dict[int, int]:
    """Free bytes of every GPU."""
    return {gpu: free_memory(torch.device("cuda", gpu)) for gpu in range(torch.cuda.device_count())}


def place(model: HookedDCFormer, device: torch.device, gpus: Mapping[int, int] | None = None) -> DeviceMap:
    """Where each part of a model goes: all of it to one device, or blocks to several GPUs in turn.

    Args:
        model: with or without memory.
        device: where to put it, unless there is a choice of GPUs.
        gpus: free bytes of each GPU to choose from. The model goes to the first that holds it with room for a prompt
            as long as its context; else it is spread with that room left on each; else one must hold the weights.
    Raises:
        ModelLoadError: its weights do not fit.
    """
    weights = sum(parameter.nbytes for parameter in model.parameters())
    if gpus is None:
        if weights > free_memory(device):
            raise _too_large(model, weights, f"{device} has {in_words(free_memory(device))} free")
        return {"": str(device)}
    run = _one_prompt(model)
    if (alone := _first_with(weights + run, gpus)) is not None:
        return {"": alone}
    if (devices := _in_turn(model, {gpu: size - run for gpu, size in gpus.items()})) is not None:
        return devices
    if (alone := _first_with(weights, gpus)) is not None:
        return {"": alone}
    there = ", ".join(f"cuda:{gpu} {in_words(size)}" for gpu, size in gpus.items())
    raise _too_large(model, weights, f"free are {there}, of which one prompt takes {in_words(run)} each")


def _in_turn(model: HookedDCFormer, room: Mapping[int, int]) -> DeviceMap | None:
    """The model's parts in the order in which they run, as many on each GPU as it has room for; None: not all fit."""
    blocks = {f"blocks.{layer}": block for layer, block in enumerate(model.blocks)}
    # a tied unembedding stands with the embedding, whose weight it is
    last = {} if model.cfg.tie_embeddings else {"unembed": model.unembed}
    first = {name: module for name, module in model.named_children() if name in ("embed", "pos_embed")}
    devices: DeviceMap = {}
    left = list(room.items())
    for name, module in (first | blocks | {"ln_final": model.ln_final} | last).items():
        size = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
        while left and size > left[0][1]:
            left.pop(0)
        if not left:
            return None
        gpu, rest = left[0]
        devices[name], left[0] = gpu, (gpu, rest - size)
    return devices | ({"unembed": devices["embed"]} if model.cfg.tie_embeddings else {})


def _first_with(needed: int, gpus: Mapping[int, int]) -> int | None:
    return next((gpu for gpu, size in gpus.items() if needed <= size), None)


def _too_large(model: HookedDCFormer, weights: int, there: str) -> ModelLoadError:
    cfg = model.cfg
    narrower = "dtype='bfloat16', " if cfg.dtype.itemsize > 2 else ""
    return ModelLoadError(
        f"The weights of {cfg.model_name} need {in_words(weights)} in {dtype_name(cfg.dtype)}, but {there}. "
        f"Use {narrower}another device, or a smaller model."
    )


def _one_prompt(model: HookedDCFormer) -> int:
    """Bytes that a prompt as long as the context takes, logits of its last position included."""
    cfg = model.cfg
    parts, _ = engine_peak(Run(cfg, "last", 1, cfg.n_ctx, cfg.n_ctx, cfg.dtype, "cuda"))
    return sum(parts.values())


def device_of(devices: DeviceMap, name: str) -> torch.device:
    """Where a device map puts a parameter or a buffer."""
    parts = name.split(".")
    prefixes = [".".join(parts[:length]) for length in range(len(parts), -1, -1)]
    found = next(devices[prefix] for prefix in prefixes if prefix in devices)
    return torch.device(found if isinstance(found, str) else f"cuda:{found}")


def dispatch(model: HookedDCFormer, devices: DeviceMap) -> HookedDCFormer:
    """Hooks that move each block's input to its device, on a model whose weights are already where they belong."""
    return dispatch_model(model, device_map=devices, force_hooks=True)
