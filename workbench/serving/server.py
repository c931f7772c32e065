"""The app behind its gate, served until it is stopped."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import webbrowser
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import streamlit as st
from starlette.middleware import Middleware

from workbench.serving import references
from workbench.serving.attempts import Attempts
from workbench.serving.closed_tabs import let_go
from workbench.serving.door import Door
from workbench.serving.gate import Gate
from workbench.serving.secret import Secret
from workbench.serving.sessions import Sessions
from workbench.serving.settings import Serving

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "app.py"

gated = False
"""Does this process serve the app behind its gate?"""


def serve(serving: Serving) -> None:
    """Serve the app; returns when it is stopped."""
    global gated
    gated = True
    os.chdir(ROOT)  # where .streamlit/config.toml stands
    sys.argv = [str(SCRIPT)]  # Streamlit looks there for the folder of the app
    app(serving).run(config=serving.options())


def app(serving: Serving) -> st.App:
    """The app with its gate, for an ASGI server."""
    sessions = Sessions()
    door = None if serving.password is None else Door(Secret(serving.password), sessions, Attempts())

    @asynccontextmanager
    async def announced(_app: st.App) -> AsyncGenerator[None, None]:
        _announce(serving, int(st.get_option("server.port")))
        tidying = asyncio.create_task(let_go())
        try:
            yield
        finally:
            tidying.cancel()

    return st.App(
        SCRIPT, lifespan=announced, on_script_error=tell,
        middleware=[Middleware(Gate, door=door, sessions=sessions, hosts=serving.hosts)],
    )  # fmt: skip


def tell(error: Exception) -> bool:
    """Show an error that a page did not foresee; True = Streamlit need not."""
    st.error(references.report(error), icon=":material/error:")
    return True


def _announce(serving: Serving, port: int) -> None:
    url: Any = serving.url(port)
    click.echo(f"The workbench is at {url}")
    if serving.token:
        click.echo("This link signs in whoever opens it; it is shown once and ends with this process.")
    if not serving.local and serving.certificate is None:
        click.echo(
            "Passwords and answers cross the network unencrypted: give --certificate and --key, or put it behind a "
            "proxy that speaks TLS.", err=True,
        )  # fmt: skip
    if serving.browser:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
