"""A component of the fuzzing: valid files, the harm that is done to them, and the reader that meets the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzzing.mutations import Draw, Files


@dataclass(frozen=True)
class Case:
    """Files for one reading. told: what was done to the valid ones, in words."""

    files: Files
    told: str

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} ({len(content)} bytes)" for name, content in self.files.items())
        return f"<{self.told}: {sizes}>"


@dataclass
class Component:
    """One reader.

    make: the valid sets of files, by name; called once. harm: changes some files in place and says what it did.
    read: reads the folder; whatever is raised must be of `errors`, in a sentence of this project's. finish: called with
    what was read, looks whether it can be used.
    """

    name: str
    make: Callable[[], dict[str, Files]]
    harm: Callable[[Draw, Files], str]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...] = (ValueError,)

    @cached_property
    def valid(self) -> dict[str, Files]:
        return self.make()

    def cases(self) -> st.SearchStrategy[Case]:
        """Harmed files."""

        @st.composite
        def case(draw: Draw) -> Case:
            name = draw(st.sampled_from(sorted(self.valid)))
            files = dict(self.valid[name])
            return Case(files, f"{name}: {self.harm(draw, files)}")

        return case()


def files_of(folder: Path) -> Files:
    """Every file of a folder, by its path inside."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
