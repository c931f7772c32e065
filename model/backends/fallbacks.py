"""What did not work on this machine and is done another way, said once and remembered. Imports torch alone."""

from __future__ import annotations

import warnings

_messages: dict[str, str] = {}


def fell_back(what: str, message: str) -> None:
    """Warn of a fallback, and keep the message for those who come later."""
    _messages[what] = message
    warnings.warn(message, stacklevel=4)


def fallback_messages() -> list[str]:
    """The fallbacks of this process so far, one sentence each."""
    return list(_messages.values())
