"""What a checkpoint that cannot be used raises."""

from __future__ import annotations

from collections.abc import Iterable

from model.plain_words import one_line

LONGEST = 1800
"""Characters of a message: names in a file may be of any length."""


class ModelLoadError(ValueError):
    """A model cannot be loaded or saved as asked: one sentence on what was given, what is needed, what to do.

    It quotes names and values from files that may hold anything, and stays one line that can be shown.
    """

    def __init__(self, said: str):
        super().__init__(one_line(said, LONGEST))


def some_of(names: Iterable[str], shown: int = 6) -> str:
    """The first few of many names, and how many more there are."""
    ordered = [one_line(name, 200) for name in names]
    more = len(ordered) - shown
    return ", ".join(ordered[:shown]) + (f" and {more} more" if more > 0 else "")
