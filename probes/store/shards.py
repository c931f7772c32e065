"""One shard on disk: tensors in a safetensors file, the token table beside them in parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from model.plain_words import one_line, parse_json
from model.whole_files import NotWritten, sha256, sync
from probes.store.manifest import StoreError

DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
"""safetensors' names of the dtypes that a store may hold."""


def write_shard(
    folder: Path, name: str, tensors: Mapping[str, NDArray[Any]], table: pa.Table
) -> dict[str, dict[str, Any]]:
    """Write both files of a shard, each whole or not at all.

    Returns:
        File name -> {"bytes", "sha256"}.
    """
    # safetensors writes its tensors by alignment and name, so that equal tensors give equal files
    files = {
        f"{name}.safetensors": lambda path: save_file(dict(tensors), path, metadata={"rows": str(len(table))}),
        f"{name}.parquet": lambda path: pq.write_table(table, path, compression="zstd"),
    }
    return {file: _write(folder / file, write) for file, write in files.items()}


def _write(path: Path, write: Callable[[Path], Any]) -> dict[str, Any]:
    aside = path.with_name(f"{path.name}.tmp")
    try:
        write(aside)
        sync(aside)
        # safetensors makes its file private to the user; give it the rights of any other
        os.chmod(aside, 0o666 & ~_umask())
        described = {"bytes": aside.stat().st_size, "sha256": sha256(aside)}
        os.replace(aside, path)
        sync(path.parent)
    except (OSError, SafetensorError, pa.ArrowException) as error:
        raise NotWritten(path, error) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
    return described


def _umask() -> int:
    # there is no way to read it without setting it
    current = os.umask(0o022)
    os.umask(current)
    return current


def map_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Every tensor of a safetensors file, memory-mapped: nothing is read before it is looked at.

    The file is 8 bytes (little-endian length of the header), a JSON header, and the tensors' bytes; the header gives
    each tensor's dtype, shape and place. https://github.com/huggingface/safetensors#format
    """
    try:
        # one map for the whole file: each holds a file open
        raw = np.memmap(path, dtype=np.uint8, mode="r")
        size = int.from_bytes(raw[:8].tobytes(), "little")
        if not 2 <= size <= len(raw) - 8:
            raise ValueError(f"its header has {size} bytes, the file {len(raw)}")
        header = parse_json(raw[8 : 8 + size].tobytes())
        header.pop("__metadata__", None)
        return {name: _view(raw[8 + size :], entry) for name, entry in header.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # whatever a header says that no header of ours does
        raise StoreError(
            f"{path} is no safetensors file of a store ({one_line(error)}). Put it back from a copy, or harvest again."
        ) from error


def _view(content: NDArray[np.uint8], entry: dict[str, Any]) -> NDArray[Any]:
    first, end = entry["data_offsets"]
    if not 0 <= first <= end <= len(content):
        raise ValueError(f"a tensor stands at bytes {first} to {end} of {len(content)}")
    return content[first:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
