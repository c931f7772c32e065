"""One reading and what came of it. Anything but a value or one clear sentence of this project's is a Fault."""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.fuzzing.component import Case, Component

ROOT = Path(__file__).parent.parent.parent
OURS = tuple(str(ROOT / package) + os.sep for package in ("model", "probes", "workbench"))
LONGEST_SENTENCE = 2000
SECONDS = 10.0
"""What no reading of such small files may take, on a busy machine."""
MEMORY = 192 * 2**20
"""What no reading may add to the memory that is in use, in bytes."""
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pty.spawn", "socket.connect",
             "socket.getaddrinfo", "ctypes.dlopen")  # fmt: skip
"""Python's audit events that no file may cause: https://docs.python.org/3/library/audit_events.html."""
MARKER = "PAYLOAD_RAN"
"""Harmful pickles make a file of this name in the folder that the environment variable of this name gives."""


class Fault(AssertionError):
    """A reader did what no reader may do. place: what two cases of the same fault share."""

    def __init__(self, said: str, place: str):
        super().__init__(said)
        self.place = place


@dataclass(frozen=True)
class Outcome:
    """kind: "read", or "refused (error type)". memory: what was added at the peak, in bytes."""

    kind: str
    seconds: float
    memory: int


class _Watch:
    """Audit events while a reader runs."""

    active, seen, installed = False, None, False

    @classmethod
    def install(cls) -> None:
        if not cls.installed:
            cls.installed = True
            sys.addaudithook(cls.hear)

    @classmethod
    def hear(cls, event: str, _: tuple) -> None:
        if cls.active and event in FORBIDDEN:
            cls.seen = event


def judged(component: Component, case: Case, scratch: Path) -> Outcome:
    """Write a case's files and read them.

    Args:
        scratch: a folder of this process alone.
    Raises:
        Fault: saying what the reader did.
    """
    folder = scratch / "case"
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    _Watch.install()
    os.environ[MARKER] = str(scratch)
    forget_peak()
    before, began, kind = peak_memory(), time.perf_counter(), "read"
    _Watch.seen, _Watch.active = None, True
    try:
        component.read(folder)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        _Watch.active = False
        kind = f"refused ({type(error).__name__})"
        _check_sentence(component, error)
    finally:
        _Watch.active = False
    found = Outcome(kind, time.perf_counter() - began, peak_memory() - before)
    _check_effects(scratch, found.memory, found.seconds)
    return found


def _check_sentence(component: Component, error: BaseException) -> None:
    """Of a promised type exactly, raised by this project's code, in one sentence that ends and can be read."""
    text, frames = str(error), traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename.removeprefix(str(ROOT) + os.sep)}:{frames[-1].lineno}"
    said, place = f"{type(error).__name__}: {text[:400]!r} at {where}", f"{type(error).__name__} at {where}"
    if type(error) not in component.errors:
        raise Fault(f"another error than {[kind.__name__ for kind in component.errors]}: {said}", place) from error
    if not frames[-1].filename.startswith(OURS):
        raise Fault(f"an error of a library, unexplained: {said}", place) from error
    if "\n" in text or len(text) > LONGEST_SENTENCE or not re.search(r"\w.*[.!?)]$", text):
        raise Fault(f"no clear sentence ({len(text)} characters): {said}", place) from error


def _check_effects(scratch: Path, memory: int, seconds: float) -> None:
    if (scratch / MARKER).exists():
        (scratch / MARKER).unlink()
        raise Fault("code from the file was run", "code")
    if _Watch.seen is not None:
        raise Fault(f"the reader caused the event {_Watch.seen}", _Watch.seen)
    if memory > MEMORY:
        raise Fault(f"reading took {memory / 2**20:.0f} MiB", "memory")
    if seconds > SECONDS:
        raise Fault(f"reading took {seconds:.1f} s", "time")


def forget_peak() -> None:
    """Count from now on, where the system can: https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """The most memory that this process has had since forget_peak, or in all, in bytes."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
