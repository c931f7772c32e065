"""How long a client, and the whole process, must wait after wrong passwords."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_CLIENTS = 4096
EVERYONE = ""
"""Stands for the process as a whole, beside the names of clients."""


@dataclass(frozen=True)
class Rule:
    """The waits after wrong passwords.

    Args:
        free: wrong passwords that cost nothing.
        first_s: the wait after the next one, in seconds; each further one multiplies it by growth, up to longest_s.
        forgiven_s: seconds without a wrong password after which one of them is forgotten.
    """

    free: int
    first_s: float
    growth: float
    longest_s: float
    forgiven_s: float

    def wait(self, wrong: int) -> float:
        """Seconds to wait after so many wrong passwords."""
        over = wrong - self.free
        # the exponent is bounded: a float power overflows beyond 2 ** 1023
        return 0.0 if over <= 0 else min(self.longest_s, self.first_s * self.growth ** min(over - 1, 64))


CLIENT = Rule(free=3, first_s=1, growth=2, longest_s=900, forgiven_s=900)
PROCESS = Rule(free=50, first_s=1, growth=1.5, longest_s=30, forgiven_s=10)
"""Slower to bite, since it makes everyone wait who is not signed in: it stops guesses from many addresses."""


@dataclass
class _Wrong:
    count: int
    at: float


class Attempts:
    """Wrong passwords by client, with waits that grow; at most most_clients are remembered, the latest.

    Args:
        client, process: the waits of one client and of all of them together.
        now: the time in seconds; never goes back.
    """

    def __init__(
        self, client: Rule = CLIENT, process: Rule = PROCESS, most_clients: int = MOST_CLIENTS,
        now: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self._client, self._process, self._most, self._now = client, process, most_clients, now
        self._wrong: OrderedDict[str, _Wrong] = OrderedDict()
        self._everyone = _Wrong(0, now())

    def wait(self, client: str) -> float:
        """Seconds until this client may try again; 0.0 = now."""
        return max(self._left(self._wrong.get(client), self._client), self._left(self._everyone, self._process))

    def failed(self, client: str) -> None:
        """Count a wrong password."""
        self._everyone = self._counted(self._everyone, self._process)
        self._wrong[client] = self._counted(self._wrong.get(client), self._client)
        self._wrong.move_to_end(client)
        if len(self._wrong) > self._most:
            self._wrong.popitem(last=False)

    def succeeded(self, client: str) -> None:
        """Forget the wrong passwords of a client that gave the right one."""
        self._wrong.pop(client, None)

    def __len__(self) -> int:
        """How many clients are remembered."""
        return len(self._wrong)

    def _left(self, wrong: _Wrong | None, rule: Rule) -> float:
        return 0.0 if wrong is None else max(0.0, wrong.at + rule.wait(wrong.count) - self._now())

    def _counted(self, wrong: _Wrong | None, rule: Rule) -> _Wrong:
        now = self._now()
        if wrong is None:
            return _Wrong(1, now)
        forgiven = int((now - wrong.at) / rule.forgiven_s)
        return _Wrong(max(0, wrong.count - forgiven) + 1, now)


def client_name(address: str) -> str:
    """The client behind an address: an IPv4 address itself, of an IPv6 address the network that one machine has."""
    try:
        found = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        # whoever has one IPv6 address commonly has the 2 ** 64 others of its network too
        return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))
    return str(found)
