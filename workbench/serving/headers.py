"""What every answer tells the browser: load nothing from elsewhere, be framed by nobody, guess no types."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Scope, Send

# Streamlit's page needs inline styles; figures and the map viewer make pictures as data: and blob: addresses, and a
# component's script is imported from a blob:. Of inline scripts only those of Streamlit's own start page run, by their
# hashes: none that a prompt, a token or a file might smuggle into a page
POLICY = (
    "default-src 'self'; script-src 'self' blob: {scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; frame-src 'none'; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; sandbox"
"""Of files that a page made (pictures, downloads): opened by themselves they run nothing."""

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not no-referrer: that makes a browser hide the origin of our own forms too
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


@cache
def page_policy() -> str:
    """What a page may load: everything from this server, nothing from another."""
    package = find_spec("streamlit")
    assert package is not None  # a requirement
    assert package.origin is not None
    start = (Path(package.origin).parent / "static" / "index.html").read_text("utf-8")
    inline = re.findall(r"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", start, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline)
    return POLICY.format(scripts=" ".join(f"'sha256-{one}'" for one in hashes))


def with_headers(scope: Scope, send: Send) -> Send:
    """The same send, which adds the headers to a response that has not set them itself."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            files = scope["path"].startswith("/media/")
            for name, value in (ALWAYS | {"Content-Security-Policy": FILE_POLICY if files else page_policy()}).items():
                headers.setdefault(name, value)
        await send(message)

    return sending
