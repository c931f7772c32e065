"""Work in a thread of its own, which a page watches and can cancel."""

from __future__ import annotations

import threading
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Value = TypeVar("Value")

Watch = Callable[[int, int], None]
"""Called by the work with (done, all) between its pieces; raises Cancelled where nobody wants the rest."""


class Cancelled(Exception):
    """Raised by watch, inside work that is not wanted any more."""


@dataclass
class _State:
    """What the thread and the job share. The thread must not hold the job itself, or it would never be let go."""

    cancel: threading.Event = field(default_factory=threading.Event)
    done: int = 0
    total: int = 0
    started: bool = False
    result: object = None
    error: BaseException | None = None

    def watch(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        if self.cancel.is_set():
            raise Cancelled


class Job(Generic[Value]):
    """Work that has begun.

    A job that nobody holds any more, because the browser's session ended, cancels itself.

    Args:
        work: called in a thread of its own with the function that it calls between its pieces.
        turns: bounds how many jobs run at once; the others wait, and can be cancelled while they wait.
    """

    def __init__(self, work: Callable[[Watch], Value], turns: threading.Semaphore | None = None):
        self._state = _State()
        self._thread = threading.Thread(target=_run, args=(self._state, work, turns), daemon=True)
        weakref.finalize(self, self._state.cancel.set)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Is the thread still at it? True after cancel() too, until the piece in hand is done."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> bool:
        """Has it not had its turn yet?"""
        return self.running and not self._state.started

    @property
    def cancelling(self) -> bool:
        return self.running and self._state.cancel.is_set()

    @property
    def cancelled(self) -> bool:
        return not self.running and isinstance(self._state.error, Cancelled)

    @property
    def progress(self) -> tuple[int, int]:
        """(done, all) pieces; all is 0 while it is not known."""
        return self._state.done, self._state.total

    def cancel(self) -> None:
        """Have it stop after the piece in hand."""
        self._state.cancel.set()

    def wait(self, timeout: float | None = None) -> None:
        """Return when it has ended, or after so many seconds."""
        self._thread.join(timeout)

    def value(self) -> Value:
        """What the work gave.

        Raises:
            RuntimeError: it has not ended. Otherwise what the work raised, Cancelled if it was cancelled.
        """
        if self.running:
            raise RuntimeError("This job has not ended. Wait for it first.")
        if self._state.error is not None:
            # else the frames of whoever asked before would stay, and grow in number
            raise self._state.error.with_traceback(None)
        return self._state.result  # type: ignore[return-value]


def _run(state: _State, work: Callable[[Watch], object], turns: threading.Semaphore | None) -> None:
    try:
        _take_turn(state, turns)
        try:
            state.started = True
            state.result = work(state.watch)
        finally:
            if turns is not None:
                turns.release()
    except Exception as error:  # it belongs to whoever asks for the value
        error.add_note("".join(traceback.format_exception(error)))
        _forget_frames(error)
        state.error = error


def _forget_frames(error: BaseException) -> None:
    """Who keeps the job, and so the error, must not keep a model or a capture that stands in the work's frames."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:  # errors may stand in a circle
            seen.add(id(one))
            one.__traceback__ = None
            waiting += [one.__cause__, one.__context__]


def _take_turn(state: _State, turns: threading.Semaphore | None) -> None:
    while turns is not None and not turns.acquire(timeout=0.2):
        state.watch(0, 0)
