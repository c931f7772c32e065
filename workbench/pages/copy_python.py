"""The script that makes the numbers of a view again."""

from __future__ import annotations

import streamlit as st


def copy_as_python(script: str, key: str = "python", label: str = "Copy as Python") -> None:
    """A button that opens the script, which has a button that copies it.

    Args:
        script: from workbench.scripts. key: of the widget.
    """
    with st.popover(label, icon=":material/code:", key=key):
        st.caption("Gives the numbers of this view with the library. Run it where the workbench is installed.")
        st.code(script, language="python")
