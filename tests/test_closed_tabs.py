"""A tab that closes while it works: what it held is let go, and the next request works."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser_tools import open_browser
from tests.served import serve_page

PATIENCE = 90_000  # ms; a busy machine is slow, and no test here measures speed
SCRIPT = """
import tempfile, time
from pathlib import Path
import streamlit as st
from workbench.jobs import Cancelled, Job

OUT = Path({out!r})

def work(watch):
    try:
        while True:
            watch(1, 2)
            (OUT / "working").touch()
            time.sleep(0.05)
    except Cancelled:
        (OUT / "cancelled").touch()
        raise

def fail(watch):
    raise RuntimeError("the worker fell over at /srv/hidden")

if "job" not in st.session_state:
    st.session_state.folder = tempfile.TemporaryDirectory(dir=OUT, prefix="held")
    st.session_state.job = Job(work)
st.write("the job runs")
if st.button("fail in a worker"):
    job = Job(fail)
    job.wait()
    job.value()
"""
QUICK = "from workbench.serving import closed_tabs; closed_tabs.let_go.__defaults__ = (1.0, 0.5)"


@pytest.fixture
def held(tmp_path):
    """(address, folder) of a server whose page starts a job that never ends and writes into the folder."""
    with serve_page(SCRIPT.format(out=str(tmp_path)), tmp_path, QUICK) as served:
        yield served.link, tmp_path


def comes(path: Path, patience_s: float = 60) -> bool:
    until = time.monotonic() + patience_s
    while time.monotonic() < until and not path.exists():
        time.sleep(0.1)
    return path.exists()


@pytest.mark.browser
def test_a_closed_tab_lets_go_of_its_job_and_folder_though_nobody_else_comes(held):
    address, folder = held
    with open_browser() as browser:
        page = browser.new_page()
        page.goto(address)
        page.get_by_text("the job runs").wait_for(timeout=PATIENCE)
        assert comes(folder / "working")
        assert len(list(folder.glob("held*"))) == 1
        page.close()
        assert comes(folder / "cancelled")
        until = time.monotonic() + 30
        while list(folder.glob("held*")) and time.monotonic() < until:
            time.sleep(0.1)
        assert list(folder.glob("held*")) == []
        page = browser.new_page()  # the next one is served
        page.goto(address)
        page.get_by_text("the job runs").wait_for(timeout=PATIENCE)
        page.close()


@pytest.mark.browser
def test_a_worker_that_raises_shows_a_reference_and_the_next_request_works(held):
    address, folder = held
    with open_browser() as browser:
        page = browser.new_page()
        page.goto(address)
        button = page.get_by_role("button", name="fail in a worker")
        for _ in range(2):
            button.click(timeout=PATIENCE)
            expect(page.get_by_test_id("stAlert").filter(has_text="reference")).to_be_visible(timeout=PATIENCE)
            assert "srv" not in page.content()
        page.reload()
        page.get_by_text("the job runs").wait_for(timeout=PATIENCE)
        page.close()
    assert "/srv/hidden" in (folder / "log").read_text()
