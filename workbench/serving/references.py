"""What a browser is told of an error that nobody foresaw: one neutral sentence, and a number that the log has too."""

from __future__ import annotations

import logging
import secrets

_LOG = logging.getLogger(__name__)


def report(error: BaseException) -> str:
    """Log an error with all that is known of it, and give the sentence that a browser may see."""
    number = secrets.token_hex(4)
    _LOG.error("Reference %s", number, exc_info=error)
    return f"Something went wrong here that nobody foresaw. The server's log has the details under reference {number}."
