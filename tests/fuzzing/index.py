"""model.safetensors.index.json and shards: names that reach outside, shards that are missing, twice or the index."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from tests.fuzzing.checkpoint_files import ERRORS, directories, load
from tests.fuzzing.component import Component
from tests.fuzzing.mutations import VALUES, Draw, Files, harm_bytes, harm_json, one_of_files

INDEX = "model.safetensors.index.json"
NAMES = (
    "..", ".", "", "/", "../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "a\\b", "C:x", "\0", "con", "~",
    "config.json", INDEX, "model.safetensors", "model-00001-of-00003.safetensors", "x" * 300,
    "file:///etc/passwd", "//x",
    "model-00009-of-00003.safetensors", "https://example.org/x.safetensors", "hf://x", "*", "model-*.safetensors",
)  # fmt: skip


def component() -> Component:
    return Component("index", lambda: directories("shards"), harm, load, ERRORS)


def harm(draw: Draw, files: Files) -> str:
    kind = draw(st.sampled_from(["bytes", "json", "json", "shard", "shard", "cycle", "missing", "exchanged"]))
    if kind == "bytes":
        name = one_of_files(draw, files)
        files[name], told = harm_bytes(draw, files[name])
        return f"{name}: {told}"
    index = json.loads(files[INDEX])
    if kind == "json":
        files[INDEX], told = harm_json(draw, index, VALUES | st.sampled_from(NAMES))
        return told
    if kind in ("missing", "exchanged"):
        return _other_shards(draw, files, kind)
    places = index["weight_map"]
    for name in draw(st.lists(st.sampled_from(sorted(places)), min_size=1, max_size=4)):
        places[name] = INDEX if kind == "cycle" else draw(st.sampled_from(NAMES))
    files[INDEX] = json.dumps(index).encode()
    return f"{kind}: {name} in {places[name][:60]!r}"


def _other_shards(draw: Draw, files: Files, kind: str) -> str:
    shards = [name for name in files if name.endswith(".safetensors")]
    first, second = draw(st.permutations(shards))[:2]
    if kind == "missing":
        del files[first]
        return f"{first} is missing"
    files[first], files[second] = files[second], files[first]
    return f"{first} and {second} exchanged"
