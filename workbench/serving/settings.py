"""How the app is served: the address, who may come in, and what Streamlit is told."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
UPLOAD_MIB = 20
WIDGETS_MB = 8
"""The most that a browser may send in one message: a prompt of 1 MB fits, with everything else on the page."""


@dataclass(frozen=True)
class Serving:
    """Where the app listens, and for whom.

    Args:
        host: address to listen on. port: 0 = a free one.
        password: that a browser must give; None = everyone who reaches the address is let in.
        token: the password was made here, so that the link to open carries it.
        certificate, key: files for TLS, both or neither.
        browser: open the default browser.
    """

    host: str = "127.0.0.1"
    port: int = 8501
    password: str | None = field(default=None, repr=False)
    token: bool = False
    certificate: Path | None = None
    key: Path | None = None
    browser: bool = False

    def __post_init__(self) -> None:
        if not self.local and self.password is None:
            raise ValueError(
                f"Listening on {self.host} lets others reach the workbench, so a password is needed: name a file that "
                "holds one with --password-file, set WORKBENCH_PASSWORD, or let --token make one."
            )
        if (self.certificate is None) != (self.key is None):
            raise ValueError("TLS needs both --certificate and --key; only one of them was given.")

    @property
    def local(self) -> bool:
        """Does only this machine reach the address?"""
        return is_loopback(self.host)

    @property
    def hosts(self) -> frozenset[str] | None:
        """Names under which the server may be called; None = any, since a password is asked for."""
        return LOCAL_NAMES | {self.host} if self.password is None else None

    def options(self) -> dict[str, Any]:
        """Streamlit's settings. They go before its files and environment variables, so that neither can open a door."""
        tls = {"server.sslCertFile": str(self.certificate), "server.sslKeyFile": str(self.key)}
        theme = os.environ.get("STREAMLIT_THEME_BASE")
        return SAFE | {
            "server.address": self.host, "server.port": self.port,
            "server.allowedHosts": sorted(self.hosts or []),
        } | (tls if self.certificate else {}) | ({"theme.base": theme} if theme else {})  # fmt: skip

    def url(self, port: int) -> str:
        """The address to open; with a token it signs in by itself."""
        shown = "localhost" if self.host in ("0.0.0.0", "::") else f"[{self.host}]" if ":" in self.host else self.host
        link = f"/_workbench/enter#{self.password}" if self.token else ""
        return f"{'https' if self.certificate else 'http'}://{shown}:{port}{link}"


SAFE: dict[str, Any] = {
    "server.headless": True,
    "server.enableXsrfProtection": True,
    "server.enableCORS": True,
    "server.corsAllowedOrigins": [],
    "server.trustedUserHeaders": "{}",
    "server.maxUploadSize": UPLOAD_MIB,
    "server.maxWidgetStateSize": WIDGETS_MB,
    "server.enableStaticServing": False,
    "server.enableAgentApi": False,
    "server.fileWatcherType": "none",
    "server.showEmailPrompt": False,
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",
    "client.toolbarMode": "minimal",
    "client.allowedOrigins": [],
    # Streamlit's greeting asks the internet for this machine's address
    "logger.hideWelcomeMessage": True,
}


def is_loopback(host: str) -> bool:
    """Does an address, or localhost, mean this machine alone?"""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
