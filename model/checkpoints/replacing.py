"""A finished directory takes the place of another: at any moment one of the two stands there whole."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from model.locks import Busy, locked
from model.whole_files import sync

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def take_place(new: Path, target: Path) -> None:
    """Give a finished directory the target's name; what stood there is deleted afterwards, or put back on failure.

    Several processes may do this at once: the last one's directory stays.
    """
    with locked(target.parent, wait=True, folder=True):
        if not target.exists():
            new.rename(target)
        elif _exchanged(new, target):
            pass  # what stood there has the other name now, and goes with it
        else:
            _in_two_steps(new, target)
        sync(target.parent)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory beside the target, which is this process's as long as this is open; then it is deleted."""
    new = target.parent / f".{target.name}.{uuid.uuid4().hex}.new"
    try:
        with ExitStack() as held:
            with locked(target.parent, wait=True, folder=True):  # clear_dead must not see it without its lock
                new.mkdir()
                held.enter_context(locked(new, folder=True))
            yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def clear_dead(target: Path) -> None:
    """Put right what killed processes left: half-written directories go, a model between its two names comes back."""
    with locked(target.parent, wait=True, folder=True):
        for left in _left(target, "new"):
            try:
                with locked(left, folder=True):  # its writer would hold it
                    shutil.rmtree(left, ignore_errors=True)
            except (Busy, OSError):
                continue  # it is being written, or its writer has just taken it away
        for old in _left(target, "old"):
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.rename(target)


def _left(target: Path, ending: str) -> list[Path]:
    """Directories of new_directory for this very target; those of m.5 are not of m."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}\.{ending}")
    return [path for path in target.parent.iterdir() if pattern.fullmatch(path.name)]


def _exchanged(new: Path, target: Path) -> bool:
    """Both names exchanged in one step, where the system can: https://man7.org/linux/man-pages/man2/rename.2.html."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    return rename(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) == 0


def _in_two_steps(new: Path, target: Path) -> None:
    old = new.with_suffix(".old")
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)
