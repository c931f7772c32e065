"""Nothing leaves the machine: every connection of the server, and every request of the browser, on every page."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import websockets
from playwright.sync_api import Page, expect

from tests.browser_tools import open_browser
from tests.served import Served, serve_workbench

PATIENCE = 90_000  # ms; a busy machine is slow, and no test here measures speed
OWN = re.compile(r"'?(localhost|127\.\d+\.\d+\.\d+|::1|0\.0\.0\.0|/[^']*)?'?$|None$")


def watched(log: Path) -> dict[str, str]:
    """What makes a process, and all that it starts, write down what they ask of the network."""
    paths = [str(Path(__file__).parent / "watched"), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "WATCHED_LOG": str(log)}


def outgoing(log: Path) -> list[str]:
    """What was asked of other machines."""
    return [line for line in log.read_text().splitlines() if not line.startswith("watching") and not _own(line)]


def _own(line: str) -> bool:
    # a socket of this machine has a path; of an address the first part is the host
    hosts = re.findall(r"\(\(('[^']*'|None)|\t\(('[^']*'|None|b'[^']*')", line)
    return bool(hosts) and all(OWN.match(a or b) for a, b in hosts)


def test_the_watch_sees_a_connection_and_a_question_for_a_name(tmp_path):
    code = (
        "import contextlib, socket\n"
        "for host in ('127.0.0.1', '192.0.2.1'):\n"  # UDP: nothing is sent
        "    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:\n"
        "        s.connect((host, 9))\n"
        "with contextlib.suppress(OSError): socket.getaddrinfo('name.invalid', 80)\n"
    )
    log = tmp_path / "network"
    subprocess.run([sys.executable, "-c", code], env=os.environ | watched(log), check=True)
    assert [line.split("\t")[0] for line in outgoing(log)] == ["socket.connect", "socket.getaddrinfo"]
    assert len(log.read_text().splitlines()) >= 4


def test_a_stranger_origin_makes_streamlit_ask_nobody_for_this_machines_address(tmp_path):
    log = tmp_path / "network"
    with serve_workbench(tmp_path / "log", environment=watched(log)) as served:

        async def connecting() -> None:
            url = served.address.replace("http", "ws") + "/_stcore/stream"
            async with websockets.connect(url, origin="http://evil.org", subprotocols=["streamlit"]):
                pass

        with pytest.raises(websockets.InvalidStatus):
            asyncio.run(connecting())
    assert "watching" in log.read_text()
    assert outgoing(log) == []


@pytest.mark.browser
@pytest.mark.parametrize("open_to_others", [False, True])
def test_a_session_through_all_pages_asks_nothing_of_another_machine(tmp_path, open_to_others):
    log, options = tmp_path / "network", ["--host", "0.0.0.0", "--token"] if open_to_others else []
    with serve_workbench(tmp_path / "log", *options, environment=watched(log)) as served, open_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(PATIENCE)
        asked: list[str] = []
        told: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("websocket", lambda stream: asked.append(stream.url))
        page.on("console", lambda line: told.append(line.text))
        page.goto(served.link)
        visited = walk(page, served)
    own = served.address, served.address.replace("http", "ws"), "data:", "blob:"
    assert [url for url in asked if not url.startswith(own)] == []
    assert len(asked) > 20
    # the policy that every answer carries forbids what it need not: a page that wanted more would say so here
    assert [line for line in told if "Content Security Policy" in line or "Refused to" in line] == []
    assert "Traceback" not in served.output()
    assert len(visited) >= 5
    assert log.read_text().count("watching") >= 1
    assert outgoing(log) == []


def walk(page: Page, served: Served) -> list[str]:
    """Open every page of the navigation and wait for it; run a small study on the way."""
    page.get_by_test_id("token-strip").first.wait_for(timeout=PATIENCE)
    links = page.get_by_test_id("stSidebarNavLink")
    names = links.all_inner_texts()
    for name in names:
        links.filter(has_text=re.compile(f"^{re.escape(name)}$")).click()
        settled(page)
    page.get_by_role("link", name="Probes").click()
    for section in ("a store", "run a small study"):
        page.get_by_text(section, exact=True).click()
        settled(page)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_test_id("stDownloadButton").first).to_be_visible(timeout=2 * PATIENCE)
    return names


def settled(page: Page) -> None:
    page.wait_for_timeout(700)
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=PATIENCE)
    expect(page.get_by_test_id("stException")).to_have_count(0)
