"""Interventions as JSON: what a link, a file or a page may hand in, read and applied to a small model."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from hypothesis import strategies as st

from model import HookedDCFormer
from probes import Intervention
from probes.interventions import from_json, to_json
from probes.mean_mixing import MeanMixing
from tests.fuzzing.component import Component
from tests.fuzzing.mutations import VALUES, Draw, Files, harm_bytes, harm_json
from tests.models import small_model, some_tokens

FILE = "change.json"
WORDS = (
    "zero", "identity", "mean", "scale", "set", "shuffle", "random", "patch", "pre", "post", "base", "query_lowrank",
    "query_gate", "key_lowrank", "key_gate", "mixing", "q", "k", "v",
)  # fmt: skip
NAMES = ("layers", "sites", "branches", "sources", "targets", "positions", "mode", "amount", "value", "mean", "prompt",
         "prompt_positions", "what", "seed")  # fmt: skip


def component() -> Component:
    return Component("interventions", valid, harm, read)


@cache
def model() -> HookedDCFormer:
    return small_model("static and dynamic", n_layers=2, n_ctx=9)


def valid() -> dict[str, Files]:
    tokens = some_tokens(1, 5)
    changes = {
        "zero": Intervention(layers=[1], sites=["post"], branches=["query_lowrank"]),
        "edge": Intervention(sources=[0], targets=[3], mode="identity"),
        "scale": Intervention(mode="scale", amount=0.5, positions=[1, 2]),
        "set": Intervention(mode="set", value=torch.eye(4), layers=[0]),
        "mean": Intervention(mode="mean", mean=MeanMixing.over(model(), [tokens])),
        "shuffle": Intervention(mode="shuffle", seed=3) + Intervention(mode="random", branches=["key_gate"]),
        "patch": Intervention(mode="patch", prompt=tokens, what=["mixing", "q"], positions=[1], prompt_positions=[2]),
    }
    return {name: {FILE: to_json(change).encode()} for name, change in changes.items()}


def harm(draw: Draw, files: Files) -> str:
    kind = draw(st.sampled_from(["bytes", "json", "json", "json", "made up"]))
    if kind == "bytes":
        files[FILE], told = harm_bytes(draw, files[FILE])
        return told
    if kind == "json":
        files[FILE], told = harm_json(draw, json.loads(files[FILE]), VALUES | st.sampled_from(WORDS))
        return told
    values = (
        VALUES
        | st.sampled_from(WORDS)
        | st.lists(st.sampled_from(WORDS), max_size=3)
        | st.lists(st.integers(-3, 9), max_size=4)
    )
    parts = draw(st.lists(st.dictionaries(st.sampled_from(NAMES), values, max_size=4), max_size=3))
    files[FILE] = json.dumps(parts).encode("utf-8", "surrogatepass")
    return kind


def read(folder: Path) -> None:
    text = (folder / FILE).read_bytes().decode("utf-8", "replace")
    change = from_json(text)
    assert from_json(to_json(change)).parts()[0].mode == change.parts()[0].mode  # type: ignore[attr-defined]
    change.run(model(), some_tokens(1, 5))
