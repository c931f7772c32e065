"""The licences of everything in requirements.lock, as Markdown: python -m tools.licences > docs/licences.md"""

from __future__ import annotations

import re
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
ABSENT = "not installed where this list was made"
LONGEST = 60
"""Characters of a licence's name; some packages put the whole text there."""

HEAD = """# Licences of the dependencies

Everything in `requirements.lock`, as each installed package's own metadata says it. Made by
`python -m tools.licences > docs/licences.md`; `make lock` does so too. The workbench itself is under Apache-2.0. What
is not installed where the list is made belongs to other systems, or to CUDA: the `nvidia-*` and `cuda-*` packages come
with PyTorch's CUDA build and are NVIDIA's, under its own terms.

| package | version | licence |
|---|---|---|
"""


def locked(text: str) -> dict[str, str]:
    """Package -> version, as a lock file pins them."""
    return dict(re.findall(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)", text, re.MULTILINE))


def licence(package: str) -> str:
    """What the metadata of an installed package calls its licence."""
    try:
        return licence_of(metadata(package))
    except PackageNotFoundError:
        return ABSENT


def licence_of(told: PackageMetadata) -> str:
    """The SPDX expression, else the classifiers, else the first line of the free text."""
    classified = [line.rsplit(" :: ", 1)[1] for line in told.get_all("Classifier", []) if line.startswith("License ::")]
    classified = [name for name in classified if name != "OSI Approved"]
    free = next((line.strip() for text in _said(told, "License") for line in text.splitlines() if line.strip()), "")
    name = "".join(_said(told, "License-Expression")) or " or ".join(classified) or free or "not said"
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}..."


def _said(told: PackageMetadata, field: str) -> list[str]:
    return told.get_all(field) or []


def table(packages: dict[str, str]) -> str:
    """The document."""
    rows = (f"| {name} | {version} | {licence(name).replace('|', '/')} |\n" for name, version in packages.items())
    return HEAD + "".join(rows)


if __name__ == "__main__":
    print(table(locked(LOCK.read_text("utf-8"))), end="")
