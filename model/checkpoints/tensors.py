"""Reading weights lazily, one tensor at a time, from safetensors or torch files, whole or in shards.

Nothing in a file is trusted: shards must lie beside their index, and .bin files are read with weights_only, which
runs no code that a pickle may carry.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.checkpoints.errors import ModelLoadError
from model.checkpoints.fields import read_json
from model.config import dtype_name
from model.plain_words import one_line

MOST_NAMES = 64 * 2**20
"""Bytes of names and shapes in a torch file: a hundred times those of the largest published model."""
_SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Entry:
    """What a file's header says of one tensor; dtype by torch's name, or the file's own where torch has none."""

    path: Path
    shape: tuple[int, ...]
    dtype: str


class WeightFiles:
    """The tensors of a model directory. Names, shapes and dtypes are known; values are read when asked for."""

    def __init__(self, directory: Path, entries: dict[str, Entry], read: Callable[[Path, str], Tensor]):
        self.directory, self.entries, self._read = directory, entries, read

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def __len__(self) -> int:
        return len(self.entries)

    def read(self, name: str) -> Tensor:
        """One tensor on the CPU. It may be a view of the mapped file: copy what is to be kept."""
        return self._read(self.entries[name].path, name)


def open_weights(directory: Path) -> WeightFiles:
    """Find a directory's weights: safetensors first, then .bin; a single file before shards.

    Raises:
        ModelLoadError: there are none, a file is unreadable or truncated, an index is wrong, or a .bin file
            holds anything but tensors.
    """
    for stem, suffix, header, reader in (
        ("model", ".safetensors", _safetensors_header, _read_safetensors),
        ("pytorch_model", ".bin", _pickle_header, _OneShard()),
    ):
        single, index = directory / f"{stem}{suffix}", directory / f"{stem}{suffix}.index.json"
        if single.exists():
            return WeightFiles(directory, header(single), reader)
        if index.exists():
            return WeightFiles(directory, _sharded(index, header), reader)
    raise ModelLoadError(
        f"{directory} holds no weights: expected model.safetensors or model.safetensors.index.json "
        "(or pytorch_model.bin, pytorch_model.bin.index.json)."
    )


# -- shards ----------------------------------------------------------------------------------------


def _sharded(index: Path, header: Callable[[Path], dict[str, Entry]]) -> dict[str, Entry]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelLoadError(f"{index} needs a 'weight_map' from tensor names to shard files.")
    paths = {shard: _shard_path(index, shard) for shard in weight_map.values() if _is_beside(index, shard)}
    entries: dict[str, Entry] = {}
    for shard, path in paths.items():
        for name, entry in header(path).items():
            if weight_map.get(name, shard) == shard:
                entries[name] = entry
    for name, shard in weight_map.items():
        if name not in entries:
            raise ModelLoadError(f"{index} places {name} in {shard}, which does not hold it. Fetch the shard again.")
    return entries


def _is_beside(index: Path, shard: object) -> bool:
    """True for a bare file name by the rules of either system, so that no index reaches outside its directory."""
    if (
        isinstance(shard, str)
        and shard != ".."
        and all(p(shard).name == shard for p in (PurePosixPath, PureWindowsPath))
    ):
        return True
    raise ModelLoadError(f"{index} names the shard {shard!r}; a shard must be a file beside its index.")


def _shard_path(index: Path, shard: str) -> Path:
    path = index.parent / shard
    try:
        there = path.is_file()
    except OSError:  # a name that no file can have
        there = False
    if not there:
        raise ModelLoadError(f"{index} names the shard {shard}, which is missing. Fetch it into {index.parent}.")
    return path


# -- safetensors -----------------------------------------------------------------------------------


def _safetensors_header(path: Path) -> dict[str, Entry]:
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - a reader, not a dict
            return {
                name: Entry(path, tuple(s.get_shape()), _SAFETENSORS_DTYPES.get(s.get_dtype(), s.get_dtype()))
                for name, s in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(
            f"{path} is not a readable safetensors file ({one_line(error)}). It may be truncated: fetch it again."
        ) from error


def _read_safetensors(path: Path, name: str) -> Tensor:
    # one mapping per tensor: the pages of a mapping that stays open would count as this process's memory
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(f"{path}: {name} cannot be read ({one_line(error)}). Fetch the file again.") from error


# -- torch files -----------------------------------------------------------------------------------


def _load_pickle(path: Path) -> dict[str, Tensor]:
    refuse_bombs(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ModelLoadError(
            f"{path} was refused: it holds Python objects other than tensors, which could run code. "
            "Convert it to safetensors where you trust it."
        ) from error
    except Exception as error:
        # whatever a damaged archive makes the reader stumble over means the same: the file is no checkpoint
        raise ModelLoadError(
            f"{path} is not a readable torch checkpoint ({_first_line(error)}). It may be truncated, or older than "
            "torch 1.6's zip format: fetch it again or convert it to safetensors."
        ) from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path} must hold a state dict (names to tensors), got {type(content).__name__}.")
    for name, value in content.items():
        dense = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        if not isinstance(name, str) or not dense or value.is_quantized:
            raise ModelLoadError(f"{path} must hold names to dense, plain tensors; {name!r} is a {_kind(value)}.")
    return content


def _kind(value: object) -> str:
    return f"{value.layout} tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def refuse_bombs(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is: torch writes every record as it is, once, names among them.

    Raises:
        ModelLoadError: it does, or it is an archive that cannot be listed, so that nobody knows what it unpacks to.
    """
    try:
        if not zipfile.is_zipfile(path):
            return  # the reader says what it is instead
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    # what zipfile raises on damaged archives: all of it becomes one sentence
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ModelLoadError(
            f"{path} is not a readable torch checkpoint ({_first_line(error)}). Fetch it again or convert it to "
            "safetensors where you trust it."
        ) from error
    unpacked = sum(record.file_size for record in records)
    packed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
    names = sum(record.file_size for record in records if record.filename.endswith(".pkl"))
    if packed or unpacked > path.stat().st_size or names > MOST_NAMES:
        raise ModelLoadError(
            f"{path} was refused: it unpacks to {unpacked} bytes from {path.stat().st_size}, {names} of them names and "
            "shapes, as no file that torch wrote does. Fetch it again, or convert it to safetensors where you trust it."
        )


def _pickle_header(path: Path) -> dict[str, Entry]:
    return {name: Entry(path, tuple(t.shape), dtype_name(t.dtype)) for name, t in _load_pickle(path).items()}


class _OneShard:
    """Reads tensors from .bin files with one file mapped at a time."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._content: dict[str, Tensor] = {}

    def __call__(self, path: Path, name: str) -> Tensor:
        if path != self._path:
            self._content = {}
            self._content, self._path = _load_pickle(path), path
        return self._content[name]


def _first_line(error: Exception) -> str:
    return one_line(str(error).strip().partition("\n")[0]) or type(error).__name__
