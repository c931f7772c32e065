"""save_model: a complete directory or none at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoints.errors import ModelLoadError
from model.checkpoints.fields import CONFIG_NAME
from model.checkpoints.load import is_model_directory
from model.checkpoints.registry import writable_layout
from model.checkpoints.replacing import clear_dead, new_directory, take_place
from model.checkpoints.tokenizer_files import TOKENIZER_FILES
from model.plain_words import one_line
from model.transformer import HookedDCFormer
from model.whole_files import sync

# a shard is gathered on the CPU before it is written: this bounds what saving a GPU model takes there
MAX_SHARD_BYTES = 4 * 1024**3

_MODEL_FILES = (CONFIG_NAME, "generation_config.json", "*.safetensors", "*.safetensors.index.json",
                "pytorch_model*.bin", "pytorch_model.bin.index.json", *TOKENIZER_FILES)  # fmt: skip
_DOCUMENTS = ("MODEL_CARD.md", "README.md", "LICENSE*", "NOTICE*", ".gitattributes", "checkpoints.csv")
"""Beside a model; kept when it is replaced."""


def save_model(model: HookedDCFormer, directory: str | Path, layout: str = "own") -> Path:
    """Write config.json, the weights and the tokenizer, so that load_model reads the same bits back.

    All is written into a new directory beside the target, which then takes its name: a model that was there is
    replaced only once the new one is on disk. A card, a licence and the like that lie beside it stay.

    Args:
        directory: new, empty, or a model directory, which is replaced.
        layout: "own" holds every model, "published" the DCFormer and DCPythia architectures (composed or plain).
    Returns:
        The directory.
    Raises:
        ModelLoadError: the layout cannot hold a field of the model's configuration (it is named), or the directory
            holds something that is no model, or the disk is full or cannot be written to.
    """
    target = Path(directory).expanduser().resolve()
    write = writable_layout(layout).write
    assert write is not None
    try:
        if target.parent.is_dir():
            clear_dead(target)
        _refuse_to_overwrite(target)
        config, tensors = write(model)
        target.parent.mkdir(parents=True, exist_ok=True)
        with new_directory(target) as new:
            _write(new, config, tensors, model.tokenizer)
            _keep_documents(target, new)
            _sync(new)
            take_place(new, target)
    except (OSError, SafetensorError) as error:
        raise _not_written(target, error) from error
    return target


def _write(new: Path, config: dict[str, Any], tensors: Iterable[tuple[str, Tensor]], tokenizer: Any | None) -> None:
    (new / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    _write_weights(tensors, new)
    if tokenizer is not None:
        tokenizer.save_pretrained(new)


def _not_written(target: Path, error: Exception) -> ModelLoadError:
    reason = one_line(getattr(error, "strerror", None) or error)
    return ModelLoadError(
        f"The model could not be written to {target} ({reason}). What stood there before is kept. Free space or choose "
        "another place, and save again."
    )


def _keep_documents(target: Path, new: Path) -> None:
    """What lies beside a model and belongs to it, but is not written here."""
    for path in target.iterdir() if target.is_dir() else ():
        if path.is_file() and _is_document(path.name) and not (new / path.name).exists():
            shutil.copy2(path, new)


def _is_document(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _DOCUMENTS)


def _refuse_to_overwrite(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ModelLoadError(f"{target} is a file. Give a new directory, or one that holds a model to replace.")
    held = sorted(path.name for path in target.iterdir())
    strange = [name for name in held if not any(fnmatch(name, pattern) for pattern in (*_MODEL_FILES, *_DOCUMENTS))]
    if strange or (held and not is_model_directory(target)):
        raise ModelLoadError(
            f"{target} holds something other than a model ({(strange or held)[0]}), which saving would delete. "
            "Give a new or empty directory."
        )


def _write_weights(tensors: Iterable[tuple[str, Tensor]], directory: Path) -> None:
    weight_map: dict[str, int] = {}
    for number, shard in enumerate(_shards(tensors)):
        save_file(shard, _shard_file(directory, number), metadata={"format": "pt"})
        # safetensors makes its file private to the user; give it the rights of its neighbours
        shutil.copymode(directory / CONFIG_NAME, _shard_file(directory, number))
        weight_map |= dict.fromkeys(shard, number)
    count = max(weight_map.values()) + 1
    if count == 1:
        _shard_file(directory, 0).rename(directory / "model.safetensors")
        return
    names = [f"model-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)]
    for number, name in enumerate(names):
        _shard_file(directory, number).rename(directory / name)
    size = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    index = {"metadata": {"total_size": size}, "weight_map": {t: names[number] for t, number in weight_map.items()}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shard_file(directory: Path, number: int) -> Path:
    return directory / f"shard{number}.safetensors"


def _shards(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """Named tensors on the CPU, as many at a time as a shard may hold."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors:
        if shard and size + tensor.nbytes > MAX_SHARD_BYTES:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.cpu().contiguous()
        size += tensor.nbytes
    yield shard


def _sync(directory: Path) -> None:
    for path in (*directory.iterdir(), directory):
        sync(path)
