"""Lets go of what closed tabs held: their state, jobs and temporary folders."""

from __future__ import annotations

import asyncio
import logging
import time

from streamlit import runtime

KEPT_S = 90.0
"""How long a tab may be away, because its connection was lost, and still find everything as it was."""
EVERY_S = 10.0

_LOG = logging.getLogger(__name__)


async def let_go(kept_s: float = KEPT_S, every_s: float = EVERY_S) -> None:
    """For as long as the server runs: end the sessions of tabs that are away for longer than kept_s.

    Streamlit itself keeps them until others come: a sweep that nobody can see any more would go on until then.
    """
    away: dict[str, float] = {}
    while True:
        await asyncio.sleep(every_s)
        try:
            away = _end_those_away(away, kept_s)
        except AttributeError as error:  # the storage of sessions is no public part of Streamlit
            _LOG.warning("Sessions of closed tabs are kept for as long as Streamlit keeps them: %s", error)
            return


def _end_those_away(away: dict[str, float], kept_s: float) -> dict[str, float]:
    """The tabs that are away, and since when."""
    server, now = runtime.get_instance(), time.monotonic()
    stored = {info.session.id: info.session for info in server._session_mgr._session_storage.list()}  # type: ignore[attr-defined]
    away = {name: away.get(name, now) for name in stored}
    for name, since in away.items():
        if now - since > kept_s:
            # Streamlit's loop still holds the last session it sent for: without its state, that holds nothing more
            stored[name].session_state.clear()
            server.close_session(name)
    return away
