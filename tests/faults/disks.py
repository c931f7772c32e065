"""Real full and read-only file systems where this process may mount them, and writes that fail one by one elsewhere."""

from __future__ import annotations

import builtins
import errno
import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[Path]:
    """A file system of this size at the folder. Skips where it cannot be mounted: that takes Linux and its root."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here ({done.stderr.decode().strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def read_only(folder: Path, on: bool = True) -> None:
    """Make a mounted file system read-only, which holds for root too, or writable again."""
    subprocess.run(["mount", "-o", f"remount,{'ro' if on else 'rw'}", folder], check=True)


def resized(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


class FailingWrites:
    """The k-th step by which Python writes below a folder (open, fsync, replace, rename, mkdir) fails with ENOSPC.

    Writes of libraries in C and Rust are not seen here: small_disk makes those fail.
    """

    def __init__(self, folder: Path, at: int):
        self.folder, self.at, self.steps = str(folder), at, 0

    def step(self, path: Any) -> None:
        name = "" if isinstance(path, int) else os.fsdecode(path)
        # TensorBoard's files are a copy of metrics.jsonl, written by a thread of its own
        if name and (not name.startswith(self.folder) or "tensorboard" in name):
            return
        self.steps += 1
        if self.steps == self.at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    @contextmanager
    def applied(self, patch: pytest.MonkeyPatch) -> Iterator[FailingWrites]:
        true_open, true_replace, true_rename, true_mkdir, true_fsync = (
            builtins.open, os.replace, os.rename, os.mkdir, os.fsync
        )  # fmt: skip

        def open_(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
            if any(letter in mode for letter in "wax+"):
                self.step(file)
            return true_open(file, mode, *more, **named)

        def of(function: Any) -> Any:
            def call(path: Any, *more: Any, **named: Any) -> Any:
                if function is not true_mkdir or not os.path.isdir(path):  # one that is there is not written
                    self.step(path)
                return function(path, *more, **named)

            return call

        with patch.context() as here:
            here.setattr(builtins, "open", open_)
            here.setattr(io, "open", open_)
            for name, function in (
                ("replace", true_replace),
                ("rename", true_rename),
                ("mkdir", true_mkdir),
                ("fsync", true_fsync),
            ):
                here.setattr(os, name, of(function))
            yield self
