"""What a checkpoint that cannot be used raises."""

from __future__ import annotations

from collections.abc import Iterable


class ModelLoadError(ValueError):
    """A model cannot be loaded or saved as asked: one sentence on what was given, what is needed, what to do."""


def some_of(names: Iterable[str], shown: int = 6) -> str:
    """The first few of many names, and how many more there are."""
    ordered = list(names)
    more = len(ordered) - shown
    return ", ".join(ordered[:shown]) + (f" and {more} more" if more > 0 else "")
