"""This project's own layout: DCFormerConfig's fields in config.json, and the tensors under the model's own names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from model.checkpoints.errors import ModelLoadError
from model.checkpoints.fields import ConfigFile
from model.checkpoints.layout import Layout, Source, layer_count
from model.checkpoints.tensors import WeightFiles
from model.config import DCFormerConfig
from model.transformer import HookedDCFormer

MODEL_TYPE = "dcformer-workbench"


def read_config(config: ConfigFile, weights: WeightFiles) -> DCFormerConfig:
    layer_count(config, "n_layers", weights)
    fields = {key: value for key, value in config.values.items() if key != "model_type"}
    _check_types(config)
    try:
        return DCFormerConfig.from_json_dict(fields)
    except TypeError as error:
        raise ModelLoadError(f"{config.path} holds a value of the wrong type ({error}).") from error


def _check_types(config: ConfigFile) -> None:
    """Flags and real numbers, which DCFormerConfig takes as they come."""
    for field in dataclasses.fields(DCFormerConfig):
        if field.name in config.values and isinstance(field.default, bool):
            config.flag(field.name)
        elif field.name in config.values and isinstance(field.default, float):
            config.positive(field.name)


def sources(model: HookedDCFormer, config: ConfigFile, weights: WeightFiles) -> dict[str, Source]:
    return {name: Source((name,)) for name, _ in model.named_parameters()}


def write(model: HookedDCFormer) -> tuple[dict[str, Any], Iterator[tuple[str, Tensor]]]:
    tensors = ((name, parameter.detach()) for name, parameter in model.named_parameters())
    return {"model_type": MODEL_TYPE} | model.cfg.to_json_dict(), tensors


LAYOUT = Layout("own", (MODEL_TYPE,), read_config, sources, lambda name, cfg: False, write)
