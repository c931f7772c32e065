"""Stores: the manifest, the safetensors and the parquet files, opened and read in every way there is."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import strategies as st

from probes import Store
from probes.harvest import harvest
from probes.store import StoreError
from tests.fuzzing.component import Component, files_of
from tests.fuzzing.mutations import VALUES, Draw, Files, harm_bytes, harm_json, one_of_files
from tests.fuzzing.safetensors_file import DTYPES, NUMBERS, joined, parted
from tests.harvest_runs import id_documents
from tests.models import small_model

MANIFEST = "manifest.json"
WORDS = (
    "tensor", "column", "factors", "float16", "float32", "int32", "class", "number", "../secret",
    "/etc/passwd", "shard-00001",
    "shard-00000", "residual@1", "next_token_loss", "document",
)  # fmt: skip


def component() -> Component:
    return Component("store", valid, harm, read, (StoreError,))


def valid() -> dict[str, Files]:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, features in {
            "parts": ["parts@1", "residual@1", "predictions"],
            "factors": ["factors@0", "entropy@1"],
        }.items():
            model = small_model(rank=1) if name == "parts" else small_model("groups")
            harvest(model, id_documents((5, 9, 3)), Path(folder) / name, features, shard_bytes=9000)
            found[name] = files_of(Path(folder) / name)
    return found


def harm(draw: Draw, files: Files) -> str:
    kind = draw(st.sampled_from(["bytes", "manifest", "manifest", "forged", "forged", "remove", "exchange"]))
    if kind == "manifest":
        files[MANIFEST], told = harm_json(draw, json.loads(files[MANIFEST]), VALUES | st.sampled_from(WORDS))
        return told
    name = one_of_files(draw, files, [name for name in files if kind == "bytes" or name != MANIFEST])
    if kind == "remove":
        del files[name]
    elif kind == "exchange":
        other = one_of_files(draw, files)
        files[name], files[other] = files[other], files[name]
        _told_size(files)
    elif kind == "bytes":
        files[name], told = harm_bytes(draw, files[name])
        return f"{name}: {told}"
    else:
        files[name], kind = _forged(draw, name, files[name])
        _told_size(files)
    return f"{name}: {kind}"


def _forged(draw: Draw, name: str, content: bytes) -> tuple[bytes, str]:
    """A file that is not what was written, of the size that the manifest is then made to say."""
    if name.endswith(".parquet") or draw(st.booleans()):
        return harm_bytes(draw, content)
    header, tensors = parted(content)
    harmed, told = harm_json(draw, header, VALUES | st.sampled_from(DTYPES) | NUMBERS)
    return joined(harmed, tensors), told


def _told_size(files: Files) -> None:
    manifest = json.loads(files[MANIFEST]) if files[MANIFEST][:1] == b"{" else {"shards": []}
    for shard in manifest["shards"]:
        for name in shard["files"]:
            shard["files"][name]["bytes"] = len(files.get(name, b""))
    files[MANIFEST] = json.dumps(manifest).encode() if manifest["shards"] else files[MANIFEST]


def read(folder: Path) -> None:
    store = Store.open(folder)
    for name in store.features:
        values = store.read(name)
        assert values.shape == (len(store), *store.features[name].shape)
        float(values.sum())  # every byte is looked at
        store.read(name, [0, len(store) - 1])
    table = store.table()
    assert len(table) == len(store)
    repr(store)
    store.verify()
