"""Plain text files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

from probes.corpora.corpus import Corpus, Document, Record

SPLITS = ("file", "paragraph", "line")
PART_CHARACTERS = 2**16
"""A document of a text file ends at the first line end after so many characters: whole documents share a shard."""


class TextFiles(Corpus):
    """Text files, in the order given.

    Args:
        split: what is a document: "file", "paragraph" (between empty lines) or "line". Longer ones than PART_CHARACTERS
            are cut at a line's end into documents of their own.
    """

    def __init__(self, paths: Sequence[Path], split: str = "file"):
        if split not in SPLITS:
            raise ValueError(f"A text file is split by {', '.join(SPLITS)}, got {split!r}.")
        self.paths, self.split = list(paths), split

    def records(self) -> Iterator[Record]:
        for path in self.paths:
            for number, text in enumerate(_texts(path, self.split)):
                yield partial(Document, f"{path}, document {number}", text)

    def describe(self) -> dict[str, Any]:
        files = [path.name for path in self.paths]
        return {"kind": "text files", "files": files, "split": self.split, "part_characters": PART_CHARACTERS}


def _texts(path: Path, split: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            yield from _documents(file, split)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}). Convert it first.") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}. Give another file.") from error


def _documents(file: IO[str], split: str) -> Iterator[str]:
    held: list[str] = []
    size = 0
    # a bounded readline: a file without line ends must not be read whole
    while line := file.readline(PART_CHARACTERS):
        blank = not line.strip()
        if not (blank and split != "file"):
            held.append(line)
            size += len(line)
        if size >= PART_CHARACTERS or (held and (split == "line" or (split == "paragraph" and blank))):
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)
