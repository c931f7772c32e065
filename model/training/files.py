"""The files of a corpus and their text, and folders that are made once."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from model.plain_words import parse_json, quoted

PIECE_CHARACTERS = 2**20
"""Long texts are read and tokenised in pieces of about this size, which end at a line's end."""


def take_place(aside: Path, folder: Path) -> None:
    """Give a finished folder its name, unless another process was faster with the same content."""
    try:
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(aside)


def corpus_files(patterns: str | list[str]) -> list[Path]:
    """The files that names and patterns (corpus/*.txt) mean, sorted.

    Raises:
        ValueError: a pattern matches nothing.
    """
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matched = [name for name in glob.glob(str(pattern), recursive=True) if os.path.isfile(name)]
        if not matched:
            raise ValueError(f"No text file matches {quoted(pattern)}. Give the path of text or .jsonl files.")
        found.update(matched)
    return [Path(name) for name in sorted(found)]


def documents(path: Path) -> Iterator[list[str]]:
    """The documents of a file, each in pieces: a text file is one, every line of a .jsonl another.

    Raises:
        ValueError: the file cannot be read, is no UTF-8, or a line has no `text`.
    """
    try:
        with open(path, encoding="utf-8") as file:
            if path.suffix != ".jsonl":
                yield list(_pieces(file))
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield [_text_of(line, path, number)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error.reason} at byte {error.start}. Convert it first.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error


def _pieces(file: IO[str]) -> Iterator[str]:
    while lines := file.readlines(PIECE_CHARACTERS):
        yield "".join(lines)


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}, is not JSON ({error}).") from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise ValueError(f"{path}, line {number}, has no field `text` that holds a text.")
    return record["text"]
