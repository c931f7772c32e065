"""The password that lets someone in: where it is read from, and how one is compared with it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

VARIABLE = "WORKBENCH_PASSWORD"
SHORTEST = 12
LONGEST = 1024
"""Characters of a password."""


class Secret:
    """A password that can be compared with and never read back."""

    def __init__(self, password: str):
        self._key = secrets.token_bytes(32)
        self._digest = self._digested(password)

    def matches(self, given: str) -> bool:
        """Is it the password? Takes the same time wherever the two differ."""
        return hmac.compare_digest(self._digest, self._digested(given))

    def _digested(self, password: str) -> bytes:
        # of one length for every password, so that not even the length can be timed; surrogates can be typed too
        return hmac.digest(self._key, password.encode("utf-8", "surrogatepass"), hashlib.sha256)

    def __repr__(self) -> str:
        return "Secret(...)"


def password_from_file(path: Path) -> str:
    """The first line of a file.

    Raises:
        ValueError: others may read the file, or what it holds is no password.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8") as file:
        if os.name == "posix" and os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError(
                f"Others on this machine may open the password file {path}. Take that away: chmod 600 {path}"
            )
        return checked(file.readline(LONGEST + 2).rstrip("\r\n"), f"the file {path}")


def password_from_environment() -> str | None:
    """What WORKBENCH_PASSWORD holds; None where it is not set. It is taken out, so that no child process gets it.

    Raises:
        ValueError: what it holds is no password.
    """
    given = os.environ.pop(VARIABLE, None)
    return None if given is None else checked(given, VARIABLE)


def new_token() -> str:
    """A password of 256 random bits."""
    return secrets.token_urlsafe(32)


def checked(password: str, where: str) -> str:
    """The password, if it is long enough to face a network and short enough to be sent."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise ValueError(
            f"The password in {where} has {len(password)} characters; {SHORTEST} to {LONGEST} are needed. "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'` makes one."
        )
    return password
