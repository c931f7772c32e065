"""What every answer tells the browser: load nothing from elsewhere, be framed by nobody, guess no types."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Scope, Send

# Streamlit's own page needs inline styles; figures and the map viewer make their pictures as data: and blob: addresses,
# and a component's script is imported from a blob:
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; frame-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
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


def with_headers(scope: Scope, send: Send) -> Send:
    """The same send, which adds the headers to a response that has not set them itself."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            files = scope["path"].startswith("/media/")
            for name, value in (ALWAYS | {"Content-Security-Policy": FILE_POLICY if files else POLICY}).items():
                headers.setdefault(name, value)
        await send(message)

    return sending
