"""Refuses to answer where the app is served to others without its gate."""

from __future__ import annotations

import streamlit as st

from workbench.serving import server
from workbench.serving.settings import is_loopback


def behind_gate() -> None:
    """Stop, with a sentence, if Streamlit alone listens on an address that other machines reach."""
    address = st.get_option("server.address")
    if not server.gated and not is_loopback(address or ""):
        st.error(
            "The workbench was started without its gate on an address that others reach. Start it with "
            "python -m workbench app --host and a password.",
            icon=":material/lock:",
        )
        st.stop()
