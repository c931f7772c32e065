"""The viewer's scripts and styles as text. The scripts share one module scope, so nothing leaks into the page."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent
_SCRIPTS = (
    "payload",
    "geometry",
    "colours",
    "paint",
    "elements",
    "axes",
    "readout",
    "input",
    "saving",
    "picture",
    "viewer",
)


def _ascii(script: str) -> str:
    """Other characters as escapes: a notebook or report may be served in any encoding."""
    return "".join(letter if letter.isascii() else f"\\u{ord(letter):04x}" for letter in script)


def joined_scripts(*names: str) -> str:
    """Scripts of the folder js as one module, in this order."""
    return "\n".join(_ascii((_FOLDER / "js" / f"{name}.js").read_text("utf-8")) for name in names)


JAVASCRIPT = joined_scripts(*_SCRIPTS)
STYLES = (_FOLDER / "viewer.css").read_text("utf-8")
