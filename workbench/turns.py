"""One at a time, first come, first served; those who wait are told their place."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

TELL_EVERY_S = 0.25

MOST_WAITING = 64
"""In one line; whoever comes after is asked to come back."""

Told = Callable[[int], object]
"""Called with the number of those before one: 0 = nobody, the turn begins."""

_told: ContextVar[Told | None] = ContextVar("told", default=None)


@contextmanager
def telling(told: Told) -> Iterator[None]:
    """Within, every wait of this thread for a turn is told of; what `told` raises gives the place up."""
    token = _told.set(told)
    try:
        yield
    finally:
        _told.reset(token)


class Turn:
    """A lock that serves its callers in the order in which they came. Use it with `with`.

    Raises:
        ValueError: MOST_WAITING others wait already.
    """

    def __init__(self) -> None:
        self._guard = threading.Condition()
        self._line: deque[object] = deque()

    def __len__(self) -> int:
        """How many hold it or wait for it."""
        return len(self._line)

    def __enter__(self) -> Turn:
        ticket, told = object(), _told.get()
        with self._guard:
            if len(self._line) > MOST_WAITING:
                raise ValueError(f"{MOST_WAITING} requests wait for this model already. Try again in a minute.")
            self._line.append(ticket)
        waited = False
        try:
            while before := self._before(ticket):
                waited = True
                if told is not None:
                    told(before)
                with self._guard:
                    if self._line[0] is not ticket:
                        self._guard.wait(TELL_EVERY_S if told is not None else None)
            if waited and told is not None:
                told(0)
        except BaseException:  # the person left, or the page was run again
            with self._guard:
                self._line.remove(ticket)
                self._guard.notify_all()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._line.popleft()
            self._guard.notify_all()

    def _before(self, ticket: object) -> int:
        with self._guard:
            return self._line.index(ticket)
