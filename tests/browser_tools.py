"""Helpers of the tests that drive a real browser: find it, open it, and serve a Streamlit script to it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).parent.parent
REQUIRED = "WORKBENCH_REQUIRE_BROWSER"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str:
    """Path of Chromium or Chrome; without one, skips the test, or fails it when WORKBENCH_REQUIRE_BROWSER=1."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    reason = "no chromium, chromium-browser or google-chrome on PATH"
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{reason}, and {REQUIRED}=1 asks for one")
    pytest.skip(reason)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A headless Chromium."""
    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


def settled(page: Page, patience: float = 120_000) -> None:
    """Wait until the page has answered what was done to it; patience in ms."""
    time.sleep(0.5)  # for the answer to begin
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=patience)
    time.sleep(0.3)  # for what it brought to be drawn


@contextmanager
def serve_streamlit(
    script: Path, *, log: Path | None = None, wait_s: float = 60, environment: dict[str, str] | None = None
) -> Iterator[str]:
    """`streamlit run script` in a process of its own on a free loopback port; gives its address.

    Args:
        log: where its output goes; by default beside the script.
        wait_s: seconds it may take to answer.
        environment: variables added to those of this process.
    Raises:
        RuntimeError: it ended, or did not answer in time; the message holds its output.
    """
    port = _free_port()
    log = log or script.with_suffix(".log")
    with log.open("wb") as output:
        server = subprocess.Popen(
            _command(script, port), cwd=ROOT, env=_environment(environment or {}), stdout=output, stderr=output
        )
    try:
        _wait_until_healthy(server, f"http://127.0.0.1:{port}", time.monotonic() + wait_s, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _command(script: Path, port: int) -> list[str]:
    options = {
        "server.port": port,
        "server.address": "127.0.0.1",
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", str(script), *flags]


def _environment(added: dict[str, str]) -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | added


def _wait_until_healthy(server: subprocess.Popen[bytes], address: str, deadline: float, log: Path) -> None:
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"streamlit ended with status {server.returncode}:\n{log.read_text('utf-8')}")
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=2).close()
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"streamlit did not answer at {address} in time:\n{log.read_text('utf-8')}")
