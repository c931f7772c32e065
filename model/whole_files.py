"""Files that are whole or absent whenever the machine stops, and files of JSON lines whose last may be cut off."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from model.plain_words import one_line, parse_json


class NotWritten(OSError):
    """A file could not be written; what stood there before is kept."""

    def __init__(self, path: Path, error: BaseException):
        reason = one_line(getattr(error, "strerror", None) or error)
        super().__init__(
            f"{path} could not be written ({reason}); what stood there before is kept. Free space or make the folder "
            "writable, and do the same again: finished work is kept, and it goes on from there."
        )


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write beside the target, force it to disk, and only then let it take the target's name.

    Raises:
        NotWritten: the disk is full, or the folder cannot be written to. What the path named before is kept.
    """
    aside = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync(path.parent)
    except OSError as error:
        raise NotWritten(path, error) from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def read_json_lines(path: Path) -> list[Any]:
    """What each line holds; a last line that was cut off while it was written is left out. No file: no lines.

    Raises:
        ValueError: a line is no JSON; the sentence names it.
    """
    content = path.read_bytes() if path.exists() else b""
    return [_parsed(line, path, number) for number, line in enumerate(content.split(b"\n")[:-1], start=1)]


def _parsed(line: bytes, path: Path, number: int) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}, is not JSON ({error}). Put the file back from a copy.") from error


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
