"""An error that nobody foresaw: the browser gets a neutral sentence with a reference, the log everything."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser_tools import ROOT, open_browser
from tests.served import serve_page

PATIENCE = 90_000  # ms; a busy machine is slow, and no test here measures speed
SCRIPT = """
import streamlit as st

def fail(where):
    raise RuntimeError(f"{where}: the secret lies in /srv/hidden/key.pem")

st.button("in the page", key="page")
st.button("in a callback", on_click=fail, args=("callback",))

@st.fragment
def piece():
    if st.button("in a fragment"):
        fail("fragment")

piece()
if st.session_state.page:
    fail("page")
st.write("the page is whole")
"""


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """(address, log) of a server whose page raises."""
    folder = tmp_path_factory.mktemp("failing")
    with serve_page(SCRIPT, folder) as served:
        yield served.link, served.log


@pytest.mark.browser
@pytest.mark.parametrize("where", ["in the page", "in a callback", "in a fragment"])
def test_an_unforeseen_error_shows_a_reference_that_the_log_has(failing, where):
    address, log = failing
    with open_browser() as browser:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        received: list[str] = []
        page.on("websocket", lambda stream: stream.on("framereceived", lambda frame: received.append(repr(frame))))
        page.goto(address)
        page.get_by_role("button", name=where).click()
        alert = page.get_by_test_id("stAlert").filter(has_text="reference")
        expect(alert).to_be_visible()
        number = re.search(r"reference ([0-9a-f]{8})", alert.inner_text())[1]
        page.close()
    told = log.read_text()
    assert number in told
    assert "/srv/hidden/key.pem" in told
    sent = "".join(received)
    assert len(received) > 2
    assert "key.pem" not in sent
    assert "RuntimeError" not in sent
    assert "Traceback" not in sent
    # Streamlit's own protocol names the script, SECURITY.md says so; nothing else of the machine is sent
    assert str(log.parent) not in sent.replace(str(log.parent / "page.py"), "")
    assert str(ROOT) not in sent
