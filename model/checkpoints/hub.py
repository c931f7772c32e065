"""Fetching a model directory from the Hugging Face hub: data files only, never code."""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub

from model.checkpoints.errors import ModelLoadError
from model.checkpoints.fields import CONFIG_NAME
from model.checkpoints.tokenizer_files import TOKENIZER_FILES

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
_SAFETENSORS = [CONFIG_NAME, *TOKENIZER_FILES, "*.safetensors", "*.safetensors.index.json"]
_TORCH = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


def is_hub_id(source: str) -> bool:
    """Is this of the form org/name?"""
    return _HUB_ID.fullmatch(source) is not None


def fetch(hub_id: str, config_only: bool = False) -> Path:
    """The local copy of a hub model, downloaded where it is not cached. Torch files only where there are no others.

    Args:
        config_only: config.json is enough; what else is cached stays in the copy.

    Raises:
        ModelLoadError: the hub has no such model or cannot be reached.
    """
    try:
        if config_only:
            return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=[CONFIG_NAME]))
        directory = Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=_SAFETENSORS))
        if not any(directory.glob("*.safetensors")):
            directory = Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=_SAFETENSORS + _TORCH))
    except Exception as error:
        # network, proxy, permission and cache errors come as classes of several libraries
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ModelLoadError(
            f"{hub_id!r} is no directory here and could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {reason}). Give the path of a model directory, check the name, or connect."
        ) from error
    return directory
