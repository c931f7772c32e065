"""Locks that the system lets go of when the process ends, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has none: one process at a time is then the user's to see to
    fcntl = None  # type: ignore[assignment]


class Busy(ValueError):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, busy: str = "", wait: bool = False, folder: bool = False) -> Iterator[None]:
    """Hold the lock of a file, which is made, or of a folder.

    Args:
        busy: the sentence that says who may hold it and what to do. wait: for another process to let it go; otherwise
            it is an error that one has it. folder: the path is a folder, and nothing is made where it is not there.
    Raises:
        Busy: another process holds it. OSError: the file cannot be made, or there is no such folder.
    """
    if folder and fcntl is None:
        yield  # Windows opens no folders either
        return
    if not folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) if folder else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(busy) from error
        yield
    finally:
        os.close(descriptor)
