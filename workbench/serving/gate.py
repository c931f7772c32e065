"""Stands before everything that the server serves: pages, their connection, files, uploads, health."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from workbench.serving.door import ENTER, LEAVE, Door, page
from workbench.serving.headers import with_headers
from workbench.serving.sessions import Sessions

POLICY_VIOLATION = 1008


class Gate:
    """ASGI middleware: refuses what comes from another site, and, with a door, whoever is not signed in.

    Args:
        app: what it stands before.
        door, sessions: for a server that asks for a password; None = it asks for none.
        hosts: names under which the server may be called; None = any. Without a password this keeps out pages of
            another site that give their own name this machine's address.
    """

    def __init__(
        self, app: ASGIApp, door: Door | None = None, sessions: Sessions | None = None,
        hosts: frozenset[str] | None = None,
    ):  # fmt: skip
        self._app, self._door, self._sessions, self._hosts = app, door, sessions, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        send, connection = with_headers(scope, send), HTTPConnection(scope)
        if refused := self._from_elsewhere(connection):
            await _refuse(scope, receive, send, refused)
        elif self._door is None or self._sessions is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] in (ENTER, LEAVE):
            await (await self._door.answer(Request(scope, receive)))(scope, receive, send)
        else:
            await self._signed_in(self._door, self._sessions, connection, receive, send)

    def _from_elsewhere(self, connection: HTTPConnection) -> Response | None:
        host, origin = connection.headers.get("host", ""), connection.headers.get("origin")
        if self._hosts is not None and _name(host) not in self._hosts:
            return PlainTextResponse("This server is not called that.", 421)
        # a browser says which site a request comes from; programs that are no browser say nothing
        if origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("This request comes from another site.", 403)
        return None

    async def _signed_in(
        self, door: Door, sessions: Sessions, connection: HTTPConnection, receive: Receive, send: Send
    ) -> None:
        scope = connection.scope
        name = door.session_name(connection)
        left = sessions.left_s(name)
        if left <= 0:
            await _refuse(scope, receive, send, _ask(connection))
        elif scope["type"] == "http":
            await self._app(scope, receive, send)
        else:
            try:
                async with asyncio.timeout(left) as until:
                    with sessions.connection(name, until):
                        await self._app(scope, receive, send)
            except TimeoutError:
                if not until.expired():
                    raise
                with suppress(RuntimeError):  # it is closed already
                    await send({"type": "websocket.close", "code": POLICY_VIOLATION})


def _ask(connection: HTTPConnection) -> Response:
    """The sign-in page for a person, a word for a program."""
    if connection.scope.get("method") == "GET" and "text/html" in connection.headers.get("accept", ""):
        following = connection.url.path + (f"?{connection.url.query}" if connection.url.query else "")
        return page(following, status=401)
    return PlainTextResponse("Sign in first.", 401)


async def _refuse(scope: Scope, receive: Receive, send: Send, answer: Response) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
    else:
        await answer(scope, receive, send)


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    with suppress(ValueError):
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    return ""
