"""The workbench as `python -m workbench app` serves it, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.browser_tools import ROOT

PASSWORD = "correct horse battery staple"


@dataclass
class Served:
    """A running server: its address (with what follows #, where a token was made), output so far, and process."""

    link: str
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return "/".join(self.link.split("/")[:3])

    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")


@contextmanager
def serve_workbench(
    log: Path, *options: str, environment: dict[str, str] | None = None, wait_s: float = 120
) -> Iterator[Served]:
    """The app on a free port until the block ends.

    Raises:
        RuntimeError: it ended, or said no address in time; the message holds its output.
    """
    command = [sys.executable, "-m", "workbench", "app", "--port", "0", "--no-browser", *options]
    # what it prints is read while it runs
    given = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"} | (environment or {})
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=given, stdout=output, stderr=output)
    try:
        yield Served(wait_for_server(process, log, wait_s), log, process)
    finally:
        process.terminate()
        process.wait(timeout=30)


@contextmanager
def serve_page(text: str, folder: Path, settings: str = "") -> Iterator[Served]:
    """A page of its own, served as the workbench's are.

    Args:
        text: of the page's script, which is written into the folder. settings: Python run in the server before it
            starts.
    """
    script, log = folder / "page.py", folder / "log"
    script.write_text(text)
    launch = f"""
from pathlib import Path
from workbench.serving import server
from workbench.serving.settings import Serving
{settings}
server.SCRIPT = Path({str(script)!r})
server.serve(Serving(port=0))
"""
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-u", "-c", launch], cwd=ROOT, stdout=output, stderr=output)
    try:
        yield Served(wait_for_server(process, log), log, process)
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for_server(process: subprocess.Popen[bytes], log: Path, wait_s: float = 120) -> str:
    """The link that a server prints when it listens.

    Raises:
        RuntimeError: it ended, or printed none in time; the message holds its output.
    """
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        told = log.read_text("utf-8", "replace")
        if found := re.search(r"The workbench is at (\S+)\n", told):
            return found[1]
        if process.poll() is not None:
            raise RuntimeError(f"the app ended with status {process.returncode}:\n{told}")
        time.sleep(0.2)
    raise RuntimeError(f"the app said no address in time:\n{told}")
