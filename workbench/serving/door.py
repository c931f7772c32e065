"""Signing in and out: the only answers that someone without the password gets."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
from pathlib import Path
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from workbench.serving.attempts import Attempts, client_name
from workbench.serving.secret import Secret
from workbench.serving.sessions import Sessions

ENTER, LEAVE = "/_workbench/enter", "/_workbench/leave"
FORM_BYTES, FORM_S = 64 << 10, 10.0
LONGEST_NEXT = 8 << 10

_LOG = logging.getLogger(__name__)
_PAGE = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
).get_template("sign_in.html.j2")


class Door:
    """Lets in whoever gives the password.

    Args:
        secret: the password. sessions: of those who are in. attempts: wrong passwords so far.
    """

    def __init__(self, secret: Secret, sessions: Sessions, attempts: Attempts):
        self._secret, self._sessions, self._attempts = secret, sessions, attempts

    def session_name(self, connection: HTTPConnection) -> str:
        """What the cookie of this server says; "" without one."""
        return connection.cookies.get(cookie_name(_port(connection)), "")

    async def answer(self, request: Request) -> Response:
        """The answer to a request for ENTER or LEAVE."""
        leaving = request.url.path == LEAVE
        if request.method in ("GET", "HEAD"):
            return page(leaving=leaving)
        if request.method != "POST":
            return PlainTextResponse("Send a form.", 405, {"Allow": "GET, HEAD, POST"})
        return self._leave(request) if leaving else await self._enter(request)

    async def _enter(self, request: Request) -> Response:
        client = client_name(request.client.host if request.client else "")
        try:
            given, following = await _form(request)
        except (TimeoutError, ValueError, ClientDisconnect):  # of who has gone nobody reads the answer
            return PlainTextResponse("This is not the form of the sign-in page.", 400)
        # from here to the end nothing is awaited: two requests cannot share one attempt
        if wait := self._attempts.wait(client):
            return page(following, f"Too many wrong passwords. Try again in {math.ceil(wait)} s.", 429, wait)
        if not self._secret.matches(given):
            self._attempts.failed(client)
            _LOG.warning("A wrong password from %s.", client)
            return page(following, "That is not the password.", 401)
        self._attempts.succeeded(client)
        answer = RedirectResponse(following, 303, {"Cache-Control": "no-store"})
        _set_cookie(request, answer, self._sessions.begin(), int(self._sessions.lifetime_s))
        return answer

    def _leave(self, request: Request) -> Response:
        self._sessions.end(self.session_name(request))
        answer = RedirectResponse(ENTER, 303, {"Cache-Control": "no-store"})
        _set_cookie(request, answer, "", 0)
        return answer


def page(
    following: str = "/", message: str = "", status: int = 200, wait_s: float = 0, leaving: bool = False
) -> Response:
    """The page that asks for the password, or that offers to sign out.

    Args:
        following: where to go afterwards, a path of this server. message: why the last attempt failed.
        wait_s: seconds that the browser is told to wait.
    """
    nonce = secrets.token_urlsafe(16)
    text = _PAGE.render(
        nonce=nonce, message=message, next=own_path(following), enter=ENTER, leave=LEAVE, leaving=leaving
    )
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; form-action 'self'; "
    headers = {
        "Content-Security-Policy": policy + "base-uri 'none'; frame-ancestors 'none'",
        "Cache-Control": "no-store",
    }
    return HTMLResponse(text, status, headers | ({"Retry-After": str(math.ceil(wait_s))} if wait_s else {}))


def own_path(following: str) -> str:
    """The path, if it leads to this server; else its start page."""
    inside = following.startswith("/") and following[1:2] not in ("/", "\\") and following.isascii()
    return following if inside and following.isprintable() and len(following) <= LONGEST_NEXT else "/"


def cookie_name(port: int) -> str:
    """Cookies do not tell ports apart, so that the name must."""
    return f"workbench_{port}"


def _port(connection: HTTPConnection) -> int:
    server = connection.scope.get("server")
    return server[1] if server and server[1] else 0


def _set_cookie(request: Request, answer: Response, value: str, age_s: int) -> None:
    answer.set_cookie(
        cookie_name(_port(request)), value, max_age=age_s, httponly=True, samesite="lax",
        secure=request.url.scheme == "https",
    )  # fmt: skip


async def _form(request: Request) -> tuple[str, str]:
    """(password, where to go next) of a form that may be neither long nor slow."""
    body = b""
    async with asyncio.timeout(FORM_S):
        async for chunk in request.stream():
            body += chunk
            if len(body) > FORM_BYTES:
                raise ValueError("too long")
    fields = parse_qs(body.decode("ascii"), max_num_fields=4, keep_blank_values=True)
    return fields.get("password", [""])[0], own_path(fields.get("next", ["/"])[0])
