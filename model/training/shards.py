"""Text tokenised once: memory-mapped arrays of token ids, and a manifest that says what they are.

A folder holds tokens-00000.npy, ... (uint16, or uint32 for vocabularies over 65,536) and manifest.json, written last.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.training.files import documents, take_place
from model.training.tokenizers import fingerprint
from model.whole_files import sha256, write_whole

MANIFEST = "manifest.json"
SHARD_TOKENS = 2**26
"""Tokens of one file: 128 MiB as uint16."""

Ids = NDArray[Any]


class TokenShards:
    """The tokens of a corpus as one long row, read from disk as they are needed.

    Args:
        folder: written by tokenise.
        check: read everything once and compare it with the manifest's sums.
    Raises:
        ValueError: a file is missing, cut short or changed.
    """

    def __init__(self, folder: Path, check: bool = True):
        self.folder = folder
        manifest = _read_manifest(folder)
        for entry in manifest["shards"]:
            _check_shard(folder / entry["file"], entry, check)
        self.arrays = [np.load(folder / entry["file"], mmap_mode="r") for entry in manifest["shards"]]
        self.starts = np.cumsum([0, *(len(array) for array in self.arrays)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def cut(self, start: int, length: int) -> Ids:
        """Token ids [length] from a position of the whole row; the cut may run over several files."""
        parts = []
        number = int(np.searchsorted(self.starts, start, side="right")) - 1
        while length > 0:
            offset = start - int(self.starts[number])
            parts.append(self.arrays[number][offset : offset + length])
            start, length, number = start + len(parts[-1]), length - len(parts[-1]), number + 1
        return np.concatenate(parts).astype(np.int64)


def tokenise(files: list[Path], tokenizer: Any, cache: Path, shard_tokens: int = SHARD_TOKENS) -> Path:
    """The folder that holds the tokens of these files; made now unless it is there already.

    Every document is followed by the tokenizer's end token, where it has one. The folder's name follows from the
    files' content and the tokenizer, so that runs share it.

    Raises:
        ValueError: a file is unreadable, or there is no token in all of them.
    """
    sums = [sha256(path) for path in files]
    name = "tokens-" + hashlib.sha256("\n".join([fingerprint(tokenizer), *sums]).encode()).hexdigest()[:16]
    folder = cache / name
    if not folder.is_dir():
        aside = cache / f".{name}.{uuid.uuid4().hex}"
        aside.mkdir(parents=True)
        _write(files, tokenizer, aside, shard_tokens)
        take_place(aside, folder)
    return folder


def _write(files: list[Path], tokenizer: Any, folder: Path, shard_tokens: int) -> None:
    kind = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    entries = []
    for number, ids in enumerate(_blocks(files, tokenizer, shard_tokens)):
        path = folder / f"tokens-{number:05d}.npy"
        array = np.array(ids, dtype=kind)
        write_whole(path, lambda file, array=array: np.save(file, array))  # type: ignore[misc]
        entries.append({"file": path.name, "tokens": len(ids), "bytes": path.stat().st_size, "sha256": sha256(path)})
    if not entries:
        raise ValueError(f"There is no text in {', '.join(map(str, files))}. Give files that hold some.")
    manifest = {"vocabulary": len(tokenizer), "tokenizer": fingerprint(tokenizer), "shards": entries}
    write_whole(folder / MANIFEST, lambda file: file.write(json.dumps(manifest, indent=1).encode()))


def _blocks(files: list[Path], tokenizer: Any, size: int) -> Iterator[list[int]]:
    """All token ids, `size` at a time."""
    held: list[int] = []
    for path in files:
        for document in documents(path):
            held += _encode(document, tokenizer)
            while len(held) >= size:
                yield held[:size]
                held = held[size:]
    if held:
        yield held


def _encode(document: list[str], tokenizer: Any) -> list[int]:
    ids = [token for piece in document for token in tokenizer.encode(piece, add_special_tokens=False)]
    return [*ids, tokenizer.eos_token_id] if ids and tokenizer.eos_token_id is not None else ids


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} has no readable {MANIFEST}. Delete the folder: it is made again.") from error


def _check_shard(path: Path, entry: dict[str, Any], check_sum: bool) -> None:
    whole = path.is_file() and path.stat().st_size == entry["bytes"]
    if not whole or (check_sum and sha256(path) != entry["sha256"]):
        raise ValueError(f"{path} is missing or damaged. Delete the folder that should hold it: it is made again.")
