"""Finished pieces of a long work, in memory and in a file that the same work goes on from."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import IO, Any, Self

from model.whole_files import read_json_lines, write_whole


class Kept:
    """Finished pieces, in memory and, with a path, in a file of JSON lines whose first names the work.

    Args:
        work: what kind of work, in a word. fingerprint: all that decides its numbers, in one line.
        names: what a piece's key is made of, as the file calls it. of: what the fingerprint stands for, in words.
    Raises:
        ValueError: the file holds another work.
    """

    def __init__(self, path: Path | None, work: str, fingerprint: str, names: Sequence[str], of: str):
        self.path, self.names = path, tuple(names)
        self.file: IO[str] | None = None
        self.found: dict[tuple[Hashable, ...], Any] = {}
        lines = [] if path is None else read_json_lines(path)
        if lines and lines[0] != {work: fingerprint}:
            raise ValueError(f"{path} holds another {work} (other {of}). Give another file, or remove it.")
        for number, line in enumerate(lines[1:], start=2):
            key = tuple(line.get(name) for name in self.names) if isinstance(line, dict) else ()
            if not key or "found" not in line or not all(isinstance(part, str | int) for part in key):
                raise ValueError(
                    f"{path}, line {number}, is no piece of a {work}. Put the file back from a copy, or remove it."
                )
            self.found[key] = line["found"]
        if path is not None:
            # the last line may have been cut off: what follows must not be glued to it
            whole = "".join(json.dumps(line) + "\n" for line in lines or [{work: fingerprint}])
            write_whole(path, lambda file: file.write(whole.encode()))

    def __enter__(self) -> Self:
        if self.path is not None:
            self.file = open(self.path, "a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()

    def has(self, *key: Hashable) -> bool:
        return key in self.found

    def add(self, *key: Hashable, found: Any) -> None:
        self.found[key] = found
        if self.file is not None:
            line = dict(zip(self.names, key, strict=True)) | {"found": found}
            self.file.write(json.dumps(line) + "\n")
            self.file.flush()
