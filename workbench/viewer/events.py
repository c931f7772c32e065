"""What a person did to the viewer, read from the browser's untrusted JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.viewer.view import Cell, Window


@dataclass(frozen=True)
class MapEvent:
    """What happened since the last run of the page; both None when nothing did.

    Attributes:
        pick: the clicked (or keyboard-selected) cell in full-map coordinates.
        window: the region now wanted at full resolution; the whole map when the zoom was reset.
    """

    pick: Cell | None = None
    window: Window | None = None


def parse_event(pick: Any, window: Any, size: tuple[int, int]) -> MapEvent:
    """Check what the browser sent against the map it is now for.

    A cell or window that is malformed or lies outside the map (it was meant for the map of a moment ago) is dropped.
    """
    return MapEvent(_cell(pick, size), _window(window, size))


def _cell(raw: Any, size: tuple[int, int]) -> Cell | None:
    pair = _pair(raw)
    if pair is None or not all(0 <= index < length for index, length in zip(pair, size, strict=True)):
        return None
    return pair


def _window(raw: Any, size: tuple[int, int]) -> Window | None:
    if not isinstance(raw, list) or len(raw) != 2:
        return None
    rows, cols = _pair(raw[0]), _pair(raw[1])
    if rows is None or cols is None:
        return None
    inside = all(0 <= start < end <= length for (start, end), length in zip((rows, cols), size, strict=True))
    return (rows, cols) if inside else None


def _pair(raw: Any) -> tuple[int, int] | None:
    is_pair = isinstance(raw, list) and len(raw) == 2 and all(type(item) is int for item in raw)
    return (raw[0], raw[1]) if is_pair else None
