"""What a manifest says, held against the types of its fields and against itself, before anything is read by it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from probes.store.manifest import Manifest

Entry = TypeVar("Entry")
PREDICTED = {"next_token_loss": "float32", "next_token_rank": "int32"}
DTYPES = ("float16", "float32", "float64", "int32")
_NAME = re.compile(r"[\w\-]{1,100}", re.ASCII)


def entry_of(kind: type[Entry], given: Any, where: str) -> Entry:
    """A dataclass from an object of a JSON file; lists become tuples.

    Raises:
        ValueError: it is no object, or a field is missing, unknown or of another type.
    """
    hints = get_type_hints(kind)
    needed = {one.name for one in dataclasses.fields(kind) if one.default is dataclasses.MISSING}  # type: ignore[arg-type]
    if not isinstance(given, Mapping) or not needed <= set(given) <= set(hints):
        raise ValueError(f"{where} needs the fields {', '.join(hints)}")
    values = {name: _tuples(value) for name, value in given.items()}
    for name, value in values.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{where}.{name} is {value!r}")
    return kind(**values)


def listed(given: Any, where: str) -> list[Any]:
    if not isinstance(given, list):
        raise ValueError(f"{where} is no list")
    return given


def check(manifest: Manifest) -> None:
    """Refuse a manifest that contradicts itself, or that names files outside its folder.

    Raises:
        ValueError: in a few words.
    """
    model = manifest.model
    if not all(isinstance(model.get(name), str) for name in ("name", "weights_sha256")):
        raise ValueError("model needs a name and a weights_sha256")
    _once("feature", (feature.name for feature in manifest.features))
    _once("shard", (shard.name for shard in manifest.shards))
    _check_features(manifest)
    _check_labels(manifest)
    if not manifest.shards:
        raise ValueError("it names no shard")
    for shard in manifest.shards:
        # a bare name, so that no manifest reaches outside its folder
        if not _NAME.fullmatch(shard.name) or set(shard.files) != {shard.tensors, shard.table}:
            raise ValueError(f"the shard {shard.name!r} does not have its two files beside the manifest")
        if min(shard.rows, shard.first_document, shard.documents) < 0 or shard.rows > 2**40:
            raise ValueError(f"the shard {shard.name} has {shard.rows} rows of {shard.documents} documents")
        for name, told in shard.files.items():
            if not (
                isinstance(told, Mapping) and _fits(told.get("bytes"), int) and isinstance(told.get("sha256"), str)
            ):
                raise ValueError(f"{name} needs bytes and sha256")


def _check_features(manifest: Manifest) -> None:
    tensors = {one.name: one for one in manifest.features if one.stored_as == "tensor"}
    for one in manifest.features:
        if one.dtype not in DTYPES or any(not 0 < size < 2**31 for size in one.shape) or len(one.shape) > 8:
            raise ValueError(f"the feature {one.name} is {one.dtype} of shape {list(one.shape)}")
        whole = {"tensor": one.parts == (), "column": PREDICTED.get(one.name) == one.dtype and one.shape == ()}
        if one.stored_as == "factors":
            whole["factors"] = len(one.parts) == 3 and set(one.parts) <= set(tensors) and len(one.shape) in (2, 3)
        if not whole.get(one.stored_as, False):
            raise ValueError(f"the feature {one.name} is stored as {one.stored_as} of {list(one.parts)}")
        if one.stored_as == "factors":
            down, up, gate = (tensors[part].shape for part in one.parts)
            *groups, heads, targets = one.shape
            fits = down == up and heads == targets and down[:-2] == tuple(groups) and down[-1:] == (heads,)
            if not fits or len(down) < 2 or math.prod(gate) != math.prod(groups) * heads:
                raise ValueError(f"the factors of {one.name} have other shapes than it")


def _check_labels(manifest: Manifest) -> None:
    columns = {one.name for one in manifest.labels} | {f.name for f in manifest.features if f.stored_as == "column"}
    _once("label", [*(one.name for one in manifest.labels), *(one.name for one in manifest.derived_labels)])
    if wrong := [one.name for one in manifest.labels if one.kind not in ("class", "number")]:
        raise ValueError(f"the label {wrong[0]} is neither of classes nor of numbers")
    for one in manifest.derived_labels:
        sorted_edges = list(one.edges) == sorted(one.edges) and all(map(math.isfinite, one.edges))
        if one.column not in columns or not sorted_edges or len(one.edges) not in (0, len(one.classes) - 1):
            raise ValueError(f"the label {one.name} does not follow from {one.column!r} by its edges")
        _once(f"class of {one.name}", one.classes)


def _once(kind: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"the {kind} {name!r} stands there twice")
        seen.add(name)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _fits(value: Any, hint: Any) -> bool:
    """Is the value of this type? Numbers of JSON are not told from whole ones where floats are wanted."""
    if hint is Any:
        return True
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(one, get_args(hint)[0]) for one in value)
    if get_origin(hint) is not None:
        return isinstance(value, Mapping)
    kinds = (int, float) if hint is float else (hint,)
    return isinstance(value, kinds) and not isinstance(value, bool)
