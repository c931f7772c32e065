"""What a store says of itself: manifest.json, written last, so that a folder without one is not finished."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.plain_words import one_line, parse_json
from model.whole_files import write_whole
from probes.store.checked import check, entry_of, listed

MANIFEST = "manifest.json"
UNFINISHED = ".harvest"
"""The folder inside a store that holds what an unfinished harvest knows; gone once the manifest is there."""
FORMAT, VERSION = "dcformer-workbench store", 1


class StoreError(ValueError):
    """A store that cannot be used: what is wrong with it, where, and what to do; one line, whatever it quotes."""

    def __init__(self, said: str):
        super().__init__(one_line(said, 1800))


@dataclass(frozen=True)
class StoredFeature:
    """One feature of every kept token.

    name: such as "query_part@3.post". dtype, shape: of a token's values as Store.read gives them. unit, meaning: in
    words. stored_as: "tensor" (of that name in every shard), "column" (of the token table), or "factors": the
    tensors `parts` (down, up, gate), whose down^T up + diag gate it is.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    unit: str
    meaning: str
    stored_as: str = "tensor"
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredLabel:
    """A column of the token table. kind: "class" (text) or "number"."""

    name: str
    kind: str
    meaning: str


@dataclass(frozen=True)
class DerivedLabel:
    """A class that follows from a column: classes[how many of the edges are <= the value]; null where there is none."""

    name: str
    column: str
    edges: tuple[float, ...]
    classes: tuple[str, ...]
    meaning: str


@dataclass(frozen=True)
class StoredShard:
    """Whole documents: rows of the tensors and of the table. files: name -> {"bytes", "sha256"}."""

    name: str
    rows: int
    first_document: int
    documents: int
    files: Mapping[str, Mapping[str, Any]]

    @property
    def tensors(self) -> str:
        return f"{self.name}.safetensors"

    @property
    def table(self) -> str:
        return f"{self.name}.parquet"


ENTRIES: dict[str, type] = {
    "features": StoredFeature, "labels": StoredLabel, "derived_labels": DerivedLabel, "shards": StoredShard,
}  # fmt: skip
"""The lists of a manifest, and what each entry is."""


@dataclass(frozen=True)
class Manifest:
    """The fields of manifest.json; docs/store.md explains them.

    model: name, weights_sha256, dtype, config. corpus: what was read and its hash. request: the settings of the
    harvest, which a resumed one must share. libraries: name -> version.
    """

    model: Mapping[str, Any]
    corpus: Mapping[str, Any]
    request: Mapping[str, Any]
    libraries: Mapping[str, str]
    features: tuple[StoredFeature, ...]
    labels: tuple[StoredLabel, ...]
    derived_labels: tuple[DerivedLabel, ...]
    shards: tuple[StoredShard, ...]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def write(self, folder: Path) -> None:
        """Write manifest.json, whole or not at all, the same bytes for the same content."""
        told = json.dumps(self.to_json(), indent=1).encode() + b"\n"
        write_whole(folder / MANIFEST, lambda file: file.write(told))

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, "rows": self.rows} | dataclasses.asdict(self)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read manifest.json.

        Raises:
            StoreError: no store, an unfinished one, or one of another format or version.
        """
        fields = _fields(folder)
        if (fields.get("format"), fields.get("version")) != (FORMAT, VERSION):
            raise StoreError(
                f"{folder} holds {fields.get('format')!r} version {fields.get('version')!r}, and this code reads "
                f"{FORMAT!r} version {VERSION}. Harvest again into another folder, or read it with the code that wrote "
                "it."
            )
        try:
            return cls._of(fields)
        except ValueError as error:
            raise StoreError(
                f"{folder / MANIFEST} is damaged: {error}. Put it back from a copy, or harvest again into another "
                "folder."
            ) from error

    @classmethod
    def _of(cls, fields: Mapping[str, Any]) -> Manifest:
        about = {name: fields.get(name) for name in ("model", "corpus", "request", "libraries")}
        if wrong := [name for name, value in about.items() if not isinstance(value, dict)]:
            raise ValueError(f"{wrong[0]} is no object")
        entries: dict[str, tuple[Any, ...]] = {
            name: tuple(entry_of(kind, entry, name) for entry in listed(fields.get(name), name))
            for name, kind in ENTRIES.items()
        }
        manifest = cls(**about, **entries)  # type: ignore[arg-type]
        check(manifest)
        return manifest


def _fields(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / UNFINISHED).is_dir():
            raise StoreError(
                f"The harvest into {folder} is not finished. Give the command that began it again: it goes on from "
                "there."
            )
        raise StoreError(f"{folder} is no store: it has no {MANIFEST}. Give the folder that harvest wrote.")
    try:
        fields = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}). Put it back from a copy, or harvest again.") from error
    if not isinstance(fields, dict):
        raise StoreError(f"{path} must hold an object, got {type(fields).__name__}. Put it back from a copy.")
    return fields
