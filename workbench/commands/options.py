"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from model import DCFormerConfig

MODEL_HELP = "A bundled model (demo/dcformer, demo/transformer), a checkpoint directory, or a hub id."


def model_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--model, --device and --dtype."""
    for option in (
        click.option("--dtype", default=None, help="float32, bfloat16, float16 or float64; default: as stored."),
        click.option("--device", default="auto", show_default=True, help="auto, cuda, mps or cpu."),
        click.option("--model", "model_name", default="demo/dcformer", show_default=True, help=MODEL_HELP),
    ):
        function = option(function)
    return function


def open_model(model_name: str, device: str, dtype: str | None) -> Any:
    from model import load_model  # takes seconds to import: only when a model is really needed

    return load_model(model_name, device=device, dtype=dtype)


def make_folder(folder: Path) -> None:
    """Make an output folder before anything is computed for it, or say why not.

    Raises:
        click.BadParameter: it cannot be made, or a file has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(f"The folder {folder} cannot be made ({error.strerror}). Name another.") from None


def config_of(model_name: str) -> DCFormerConfig:
    """The configuration of a size of the paper, or of a model on disk, whose weights need not be there."""
    from model.checkpoints.load import read_config
    from model.config import PRESETS, DCFormerConfig

    return DCFormerConfig.preset(model_name) if model_name in PRESETS else read_config(model_name)
