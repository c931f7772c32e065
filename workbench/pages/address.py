"""The URL of a page says its state, and restores it: in another browser, after a reload, with the back button."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

import streamlit as st
from streamlit.runtime.scriptrunner import RerunException

from workbench.links import Field, fits, read_state, write_state
from workbench.pages.tables import plain

UNDER_WAY_S = 3.0
"""How long an answer of the browser may still carry the URL of a moment ago."""
MARK = "address of page"
KEPT = "address kept"
WRITTEN = "address written"
RESTORED = "address restored"
REPLACED = "address replaced"
MOST_REPLACED = 50

_within: ContextVar[bool] = ContextVar("within an address", default=False)


class _Ended(Exception):
    """The page has said all that it has to say."""


def end() -> NoReturn:
    """End the page here. In the place of st.stop, after which nothing can be written, the URL included."""
    if _within.get():
        raise _Ended
    st.stop()  # a fragment that runs by itself has no URL to write


@contextmanager
def address(page: str, fields: Sequence[Field]) -> Iterator[None]:
    """Keep a page's state and its URL the same; the whole page stands inside.

    Before: every field has a value in st.session_state under its key, from the URL if the page was just opened or
    the URL was changed, else from what this session had here, else its default. Widgets are made with `key=` and no
    value; those that are not drawn in every run of the page also with `persist_state="session"`.
    After, also if the page ends early by `end`: the URL says the state.

    Args:
        page: name of the page; state is taken over when another page was shown last.
        fields: what the URL holds.
    """
    _enter(page, fields)
    token = _within.set(True)
    try:
        yield
    except _Ended:
        pass
    except RerunException:  # another run of this or another page follows and writes its own
        _keep(fields)
        raise
    except Exception:
        _leave(fields)
        raise
    finally:
        _within.reset(token)
    _leave(fields)


def restored() -> bool:
    """Did the state of this run come from a URL?"""
    return bool(st.session_state.get(RESTORED))


def _enter(page: str, fields: Sequence[Field]) -> None:
    state, here = st.session_state, _given()
    opened = state.get(MARK) != page
    state[MARK] = page
    # what this session wrote itself is no link, also where it still stands when another page opens
    late = not opened and _late(here, fields)
    asked = here != state.get(WRITTEN) and (bool(here) or not opened) and not _under_way(here) and not late
    state[RESTORED] = asked
    if asked or (opened and not here):
        state[WRITTEN] = here  # taken over now: a run that a click cuts short must not make the next one do it again
    kept = state.setdefault(KEPT, {})
    values: dict[str, Any] = {}
    if asked:
        values, refused = read_state(fields, here)
        values = {field.key: values.get(field.key, field.default) for field in fields}
        for message in refused:
            st.warning(plain(message), icon=":material/link_off:")
    for field in fields:
        if field.key in values:
            state[field.key] = values[field.key]
        elif field.key not in state:
            state[field.key] = kept.get(field.key, field.default)
        elif opened:  # to Streamlit the widgets of another page are other ones
            state[field.key] = state[field.key]


def _given() -> dict[str, str]:
    return dict(st.query_params.to_dict())


def _under_way(here: dict[str, str]) -> bool:
    """Was this URL replaced a moment ago, when the browser's message had already been sent?"""
    return any(said == here and _age(when) < UNDER_WAY_S for when, said in st.session_state.get(REPLACED, ()))


def _late(here: dict[str, str], fields: Sequence[Field]) -> bool:
    """Is this a URL that was replaced, however long ago, in the message of a person who changed something on the page?

    A busy machine may take any time. Going back or forward changes nothing on the page but the URL.
    """
    state, kept = st.session_state, st.session_state.get(KEPT, {})
    changed = any(state[at.key] != kept[at.key] for at in fields if at.key in state and at.key in kept)
    return changed and any(said == here for _, said in state.get(REPLACED, ()))


def _age(when: float) -> float:
    return time.monotonic() - when


def _keep(fields: Sequence[Field]) -> None:
    state = st.session_state
    state.setdefault(KEPT, {}).update({field.key: state[field.key] for field in fields if field.key in state})


def _leave(fields: Sequence[Field]) -> None:
    state = st.session_state
    _keep(fields)
    said = write_state(fields, state[KEPT])
    missing = []
    while not fits(said):
        missing.append(max(said, key=lambda name: len(said[name])))
        said.pop(missing[-1])
    if missing:
        st.caption(f"This state is too long for a link: the address does not hold its {', '.join(missing)}.")
    here = _given()
    if said != here:
        # what was written before may not have reached the browser yet, which tells of it later
        replaced = [here] if state.get(WRITTEN) in (None, here, said) else [here, state[WRITTEN]]
        now = time.monotonic()
        state[REPLACED] = [*state.get(REPLACED, ()), *((now, one) for one in replaced)][-MOST_REPLACED:]
        st.query_params.from_dict(said)
    state[WRITTEN] = said
