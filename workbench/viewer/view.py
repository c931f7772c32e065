"""What the viewer shows: panels side by side, the names of their rows and columns, a selected cell and a window."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Cell = tuple[int, int]
"""(row, column) in the full map."""

Window = tuple[tuple[int, int], tuple[int, int]]
"""((first row, end row), (first column, end column)) in the full map; ends are exclusive."""

_CONTROL_PICTURES = {"\n": "↵", "\t": "⇥", "\r": "␍", "\N{NO-BREAK SPACE}": "⍽"}


@lru_cache(maxsize=1 << 16)  # every run of a page asks for every token of a long prompt several times
def visible_token(text: str) -> str:
    """The token as one line of visible characters: newline ↵, tab ⇥, outer spaces ·, nothing at all ∅."""
    outer = re.fullmatch(r"( *)(.*?)( *)", text, flags=re.DOTALL)
    assert outer is not None  # the pattern matches every string
    marked = "·" * len(outer[1]) + outer[2] + "·" * len(outer[3])
    return "".join(_visible_character(character) for character in marked) or "∅"


def _visible_character(character: str) -> str:
    if character in _CONTROL_PICTURES:
        return _CONTROL_PICTURES[character]
    # zero-width, bidirectional and control characters would vanish or reorder the text around them
    return character if character.isprintable() or character == " " else "\N{REPLACEMENT CHARACTER}"


def max_abs(*maps: np.ndarray) -> float:
    """Largest finite magnitude over all maps: the scale that lets several panels share their colours (1 if all 0)."""
    return max((magnitude for values in maps for magnitude in map(abs, finite_range(values))), default=0.0) or 1.0


def finite_range(values: np.ndarray) -> tuple[float, float]:
    """Lowest and highest present value, 0 included."""
    present = np.where(np.isfinite(values), values, 0)
    return float(present.min(initial=0)), float(present.max(initial=0))


@dataclass(frozen=True)
class Labels:
    """One axis of a map.

    Attributes:
        title: what a row or column is, in the singular: "query", "key", "layer", "head".
        names: one name for each row or column of the *full* map, usually token strings; empty for numbers alone.
    """

    title: str
    names: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Panel:
    """One map.

    Attributes:
        title: short heading, "pattern composed".
        values: [rows, cols] float; NaN and -inf are absent cells (outside what the query may see), never a colour.
        scale: value at the ends of the colour range [-scale, +scale], larger values saturate;
            None takes the largest magnitude of `values`, so pass it whenever panels or windows are to be compared.
        unit: "nats", "probability", ""; shown after values.
        signed: True draws a diverging scale centred on 0, False a sequential one from 0 to scale.
    Raises:
        ValueError: not a matrix, +inf present, a scale that is not positive, or an unsigned panel with negative values.
    """

    title: str
    values: np.ndarray
    scale: float | None = None
    unit: str = ""
    signed: bool = True

    def __post_init__(self) -> None:
        _check_values(self)
        if self.scale is not None and not 0 < self.scale < np.inf:
            raise ValueError(f"panel {self.title!r} has scale {self.scale}. Give a positive number, or None.")
        if not self.signed:
            _check_not_negative(self)

    @property
    def full_scale(self) -> float:
        """Value at the positive end of the colours."""
        return max_abs(self.values) if self.scale is None else float(self.scale)


def _check_values(panel: Panel) -> None:
    values = panel.values
    if values.ndim != 2 or 0 in values.shape or values.dtype.kind != "f":
        raise ValueError(
            f"panel {panel.title!r} has values of shape {list(values.shape)} and type {values.dtype}. "
            "Give a non-empty float matrix [rows, cols]."
        )
    if np.isposinf(values).any():
        raise ValueError(f"panel {panel.title!r} contains +inf. Only NaN and -inf can stand for absent cells.")


def _check_not_negative(panel: Panel) -> None:
    lowest, _ = finite_range(panel.values)
    if lowest < -panel.full_scale / 254:  # would be drawn as something else than 0
        raise ValueError(f"panel {panel.title!r} is unsigned but goes down to {lowest:.3g}. Pass signed=True.")


@dataclass(frozen=True, eq=False)
class MapView:
    """Panels of the same rows and columns, with linked zoom and cross-hair.

    Attributes:
        panels: one or more; all `values` of one shape.
        rows, cols: axis titles and names for the full map.
        selected: the outlined cell in full-map coordinates, or None.
        window: the part of the full map that `values` cover; None is all of it.
        size: (rows, columns) of the full map; None takes it from the panels (then `window` must be None).
        absent: what the read-out says of an absent cell.
        stretch: fill the width and the height given, with cells that are not square.
        column: a column of the full map that is framed in every panel, or None.
        written: write values into cells that are large enough, in views small enough to be sent exactly.
        most_columns: of panels side by side, or None for as many as fit.
    `values` hold either one entry for each cell of the window or a reduction of it (`reduce_map`).
    Raises:
        ValueError: panels, labels, window and selection contradict each other.
    """

    panels: Sequence[Panel]
    rows: Labels
    cols: Labels
    selected: Cell | None = None
    window: Window | None = None
    size: tuple[int, int] | None = None
    absent: str = "not visible to this query"
    stretch: bool = False
    column: int | None = None
    written: bool = False
    most_columns: int | None = None

    def __post_init__(self) -> None:
        shapes = {panel.values.shape for panel in self.panels}
        if len(shapes) != 1:
            raise ValueError(f"panels have shapes {sorted(shapes)}. Give one or more panels of one shape.")
        if self.size is None and self.window is not None:
            raise ValueError(f"window {self.window} was given without size. Pass the size of the full map too.")
        self._check_window(*next(iter(shapes)))
        self._check_labels()
        if self.selected is not None and not _inside(self.selected, self.full_size):
            raise ValueError(f"selected cell {self.selected} lies outside the {_by(self.full_size)} map.")
        if self.column is not None and not 0 <= self.column < self.full_size[1]:
            raise ValueError(f"column {self.column} lies outside the {_by(self.full_size)} map.")

    def _check_window(self, *grid: int) -> None:
        for (start, end), length, cells in zip(self.extent, self.full_size, grid, strict=True):
            if not 0 <= start < end <= length:
                raise ValueError(f"window {self.window} does not lie inside the {_by(self.full_size)} map.")
            if cells > end - start:
                raise ValueError(
                    f"panels of {_by(grid)} values were given for window {self.extent}. "
                    "Give at most one value for each cell."
                )

    def _check_labels(self) -> None:
        for labels, length in zip((self.rows, self.cols), self.full_size, strict=True):
            if len(labels.names) not in (0, length):
                raise ValueError(
                    f"{labels.title} has {len(labels.names)} names for {length} positions of the full map. "
                    "Give one for each, or none."
                )

    @property
    def full_size(self) -> tuple[int, int]:
        """(rows, columns) of the full map."""
        if self.size is not None:
            return self.size
        rows, cols = self.panels[0].values.shape
        return rows, cols

    @property
    def extent(self) -> Window:
        """The window, or the whole map."""
        return self.window or ((0, self.full_size[0]), (0, self.full_size[1]))

    def _repr_html_(self) -> str:
        """Drawn when the view is the last expression of a notebook cell."""
        from workbench.viewer.standalone import notebook_html  # that module imports this one

        return notebook_html(self)


def _inside(cell: Cell, size: tuple[int, int]) -> bool:
    return all(0 <= index < length for index, length in zip(cell, size, strict=True))


def _by(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))
