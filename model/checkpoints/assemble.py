"""Building a model around the tensors of a file, one at a time, with no second copy of the weights in memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.errors import ModelLoadError, some_of
from model.checkpoints.fields import ConfigFile
from model.checkpoints.layout import Layout, Source
from model.checkpoints.tensors import WeightFiles
from model.config import DTYPES, DCFormerConfig, parse_dtype
from model.transformer import HookedDCFormer

# buffers that are constants of the module, not weights: all of them hold zeros
_ZERO_BUFFERS = {"zero_bias", "b_U"}


Watch = Callable[[int, int], object]
"""Called between two weights with (bytes loaded, bytes of all); what it raises gives the loading up."""


def stored_dtype(weights: WeightFiles, names: Iterable[str]) -> torch.dtype:
    """The dtype that most of the weights are stored in; where two hold as many, the wider."""
    elements: Counter[str] = Counter()
    for name in names:
        entry = weights.entries[name]
        if entry.dtype in DTYPES:
            elements[entry.dtype] += math.prod(entry.shape)
    if not elements:
        return torch.float32
    return parse_dtype(max(elements, key=lambda dtype: (elements[dtype], DTYPES[dtype].itemsize)))


def empty_model(cfg: DCFormerConfig, tokenizer: Any = None) -> HookedDCFormer:
    """A model whose tensors have shapes and no memory.

    Raises:
        ModelLoadError: no tensor can have such a shape.
    """
    try:
        with torch.device("meta"):
            return HookedDCFormer(cfg, tokenizer, seed=None)
    except (RuntimeError, TypeError) as error:
        # nothing but sizes can fail here: no weight is read and no memory taken
        sizes = ", ".join(
            f"{name}={getattr(cfg, name)}" for name in ("d_model", "n_heads", "d_head", "d_mlp", "d_vocab")
        )
        raise ModelLoadError(
            f"The configuration's sizes ({sizes}) make tensors larger than any can be. Fetch the right config.json."
        ) from error


def check_tensors(
    model: HookedDCFormer, layout: Layout, sources: dict[str, Source], config: ConfigFile, weights: WeightFiles
) -> None:
    """Every tensor the model needs is there in its shape, and nothing else is.

    Raises:
        ModelLoadError: naming the tensors that are missing, unexpected, misshapen or of a dtype that cannot be used.
    """
    needed: dict[str, tuple[int, ...]] = {}
    for name, parameter in model.named_parameters():
        parts = sources[name].to_file(parameter)
        needed |= {part: tuple(t.shape) for part, t in zip(sources[name].names, parts, strict=True)}
    present = weights.entries
    both = [name for name in needed if name in present]
    problems = {
        "missing": [name for name in needed if name not in present],
        "unexpected": [name for name in present if name not in needed and not layout.is_derived(name, model.cfg)],
        "of the wrong shape": [
            f"{name} ({list(present[name].shape)}, needed {list(needed[name])})"
            for name in both
            if present[name].shape != needed[name]
        ],
        "of an unusable dtype": [
            f"{name} ({present[name].dtype})" for name in both if present[name].dtype not in DTYPES
        ],
    }
    told = [f"{kind}: {some_of(names)}" for kind, names in problems.items() if names]
    if told:
        raise ModelLoadError(
            f"The weights in {weights.directory} do not fit its {config.path.name} ({config.model_type}). "
            f"Tensors {'; '.join(told)}."
        )


def fill(
    model: HookedDCFormer, sources: dict[str, Source], weights: WeightFiles, device_of: Callable[[str], torch.device],
    watch: Watch | None = None,
) -> HookedDCFormer:  # fmt: skip
    """Give an empty model its weights, in its own dtype, each on the device that belongs to its name."""
    loaded, done, total = {}, 0, sum(parameter.nbytes for parameter in model.parameters())
    for name, parameter in model.named_parameters():
        if watch is not None:
            watch(done, total)
        loaded[name] = _load(sources[name], weights, parameter, device_of(name))
        done += parameter.nbytes
    if model.cfg.tie_embeddings:
        loaded["unembed.weight"] = loaded["embed.W_E"]
    model.load_state_dict(loaded, strict=True, assign=True)
    if model.cfg.tie_embeddings:
        model.unembed.weight = model.embed.W_E  # one parameter, not two over the same memory
    _restore_buffers(model, device_of)
    model.cfg.device = str(model.embed.W_E.device)
    return model


def _load(source: Source, weights: WeightFiles, like: Tensor, device: torch.device) -> Tensor:
    target = torch.zeros(like.shape, dtype=like.dtype, device=device)
    if source.names:
        # one pass from the mapped file to its place: reorders, casts and moves without a copy in between
        target.copy_(source.to_ours(*(weights.read(name) for name in source.names)))
    return target


def _restore_buffers(model: HookedDCFormer, device_of: Callable[[str], torch.device]) -> None:
    """Buffers that no file holds are still without memory: make them again."""
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in _ZERO_BUFFERS:
                raise RuntimeError(f"Buffer {name!r} of {type(module).__name__} is not known to the loader.")
            device = device_of(f"{path}.{name}")
            setattr(module, name, torch.zeros(buffer.shape, dtype=buffer.dtype, device=device))
