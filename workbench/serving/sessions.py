"""Who is signed in: random names in a cookie, kept for a time."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LIFETIME_S = 12 * 3600.0
MOST_SESSIONS = 1000


@dataclass
class _Session:
    until: float
    connections: set[asyncio.Timeout] = field(default_factory=set)


class Sessions:
    """The browsers that gave the password; at most `most`, the oldest goes first.

    Args:
        lifetime_s: seconds after which the password is asked for again.
        now: the time in seconds; never goes back.
    """

    def __init__(
        self, lifetime_s: float = LIFETIME_S, most: int = MOST_SESSIONS, now: Callable[[], float] = time.monotonic
    ):
        self.lifetime_s, self._most, self._now = lifetime_s, most, now
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()

    def begin(self) -> str:
        """The name of a new session, of 256 random bits."""
        name = secrets.token_urlsafe(32)
        self._sessions[_digest(name)] = _Session(self._now() + self.lifetime_s)
        while len(self._sessions) > self._most:
            self._drop(next(iter(self._sessions)))
        return name

    def left_s(self, name: str) -> float:
        """Seconds that a session still lasts; 0.0 where there is none of this name."""
        # looked up by its digest: how long that takes says nothing about the name
        key = _digest(name)
        session = self._sessions.get(key)
        if session is None:
            return 0.0
        left = session.until - self._now()
        if left <= 0:
            self._drop(key)
        return max(0.0, left)

    def end(self, name: str) -> None:
        """End a session and every connection that it holds open."""
        self._drop(_digest(name))

    @contextmanager
    def connection(self, name: str, timeout: asyncio.Timeout) -> Iterator[None]:
        """While a connection of this session is open: the session's end is the timeout's end too.

        Raises:
            KeyError: there is no session of this name.
        """
        session = self._sessions[_digest(name)]
        session.connections.add(timeout)
        try:
            yield
        finally:
            session.connections.discard(timeout)

    def __len__(self) -> int:
        """How many are kept, those that have run out among them."""
        return len(self._sessions)

    def _drop(self, key: bytes) -> None:
        session = self._sessions.pop(key, None)
        for timeout in session.connections if session is not None else ():
            if not timeout.expired():
                timeout.reschedule(asyncio.get_running_loop().time())


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
