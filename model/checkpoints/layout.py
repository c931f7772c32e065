"""What a checkpoint layout is: how its config.json and its tensors correspond to ours.

A new layout is one new file that ends in a Layout, and one line in registry.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.errors import ModelLoadError
from model.checkpoints.fields import ConfigFile
from model.checkpoints.tensors import WeightFiles
from model.config import DCFormerConfig
from model.transformer import HookedDCFormer


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _alone(tensor: Tensor) -> tuple[Tensor, ...]:
    return (tensor,)


@dataclass(frozen=True)
class Source:
    """Where one of our parameters stands in a file.

    names: its tensors there; none at all where the file leaves it out and it is zero.
    to_ours: from those tensors, in that order, to ours. Views will do: the loader copies.
    to_file: the inverse. It also says, from a tensor of ours without values, which shapes the file must have.
    """

    names: tuple[str, ...]
    to_ours: Callable[..., Tensor] = _same
    to_file: Callable[[Tensor], tuple[Tensor, ...]] = _alone


ZERO = Source((), to_file=lambda tensor: ())


@dataclass(frozen=True)
class Layout:
    """One way of storing a model in a directory.

    name: what save_model(layout=) calls it.
    model_types: the values of "model_type" in config.json that mean this layout.
    read_config: our configuration from theirs; raises ModelLoadError for what would be computed wrongly.
    sources: for each parameter of an empty model (by its name in named_parameters) where it stands.
    is_derived: is this tensor of the file computed from others, so that it is not read?
    write: config.json and the named tensors of a model, or None for a layout that is only read. Raises
        ModelLoadError naming the field that the layout cannot hold.
    """

    name: str
    model_types: tuple[str, ...]
    read_config: Callable[[ConfigFile, WeightFiles], DCFormerConfig]
    sources: Callable[[HookedDCFormer, ConfigFile, WeightFiles], dict[str, Source]]
    is_derived: Callable[[str, DCFormerConfig], bool]
    write: Callable[[HookedDCFormer], tuple[dict[str, Any], Iterator[tuple[str, Tensor]]]] | None = None


def layer_count(config: ConfigFile, key: str, weights: WeightFiles) -> int:
    """The number of layers, refused where the file could not hold them (and nothing of that size is built)."""
    layers = config.whole(key)
    if layers > len(weights):
        raise config.error(key, f"at most as many layers as there are tensors in {weights.directory} ({len(weights)})")
    return layers


def check_tied(config: ConfigFile, weights: WeightFiles, embedding: str, unembedding: str) -> bool:
    """Does config.json tie the two? Files may still hold the second, as a copy of the first.

    Raises:
        ModelLoadError: the file holds another unembedding, so that config.json cannot be right.
    """
    tied = config.flag("tie_word_embeddings", default=False)
    if tied and embedding in weights and unembedding in weights and not _equal(weights, embedding, unembedding):
        raise ModelLoadError(
            f"{config.path} says 'tie_word_embeddings': true, but {unembedding} differs from {embedding}. "
            "Set it to false, or fetch the right file."
        )
    return tied


def _equal(weights: WeightFiles, first: str, second: str) -> bool:
    one, two = weights.entries[first], weights.entries[second]
    return (one.shape, one.dtype) == (two.shape, two.dtype) and torch.equal(weights.read(first), weights.read(second))
