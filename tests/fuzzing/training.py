"""What a training run goes on from: config.json, resume.pt and metrics.jsonl of its folder."""

from __future__ import annotations

import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from model import HookedDCFormer
from model.training import TrainConfig, train
from model.training.config import model_config
from model.training.metrics import read_metrics
from model.training.recipe import make_optimizer, make_scheduler
from model.training.saving import claim_folder, load_state
from tests.fuzzing.component import Component, files_of
from tests.fuzzing.mutations import SCALARS, Draw, Files, harm_bytes, harm_json
from tests.fuzzing.torch_file import _deflated, _harmed_pickle, _harmed_record, _payload, _saved
from tests.training_runs import TINY, config

STATE = "resume.pt"


def component() -> Component:
    return Component("training", valid, harm, read)


@cache
def settings() -> TrainConfig:
    return config(Path("run"), steps=2, model=TINY | {"n_layers": 1, "visible_keys": None}, kept_checkpoints=0)


def valid() -> dict[str, Files]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        train(TrainConfig(**(vars(settings()) | {"out": str(out)})))
        held = files_of(out)
    _deflated("data.pkl", held[STATE])
    return {"run": {name: held[name] for name in ("config.json", STATE, "metrics.jsonl")}}


def harm(draw: Draw, files: Files) -> str:
    kind = draw(
        st.sampled_from(
            ["bytes", "bytes", "record", "pickle", "payload", "bomb", "state", "state", "config", "metrics"]
        )
    )
    if kind == "config":
        files["config.json"], told = harm_json(draw, json.loads(files["config.json"]))
    elif kind == "metrics":
        files["metrics.jsonl"], told = harm_bytes(draw, files["metrics.jsonl"])
    elif kind == "bomb":
        files[STATE], told = _deflated("data.pkl", files[STATE]), "deflated pickle"
    else:
        how = {
            "bytes": harm_bytes,
            "record": _harmed_record,
            "pickle": _harmed_pickle,
            "payload": _payload,
            "state": _state,
        }
        files[STATE], told = how[kind](draw, files[STATE])
    return f"{kind}: {told}"


def _state(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """A whole state with one value that is another."""
    state: Any = torch.load(io.BytesIO(content), weights_only=True)
    holder, told = state, []
    while isinstance(holder, dict) and holder:
        key = draw(st.sampled_from(sorted(holder, key=str)))
        told.append(str(key))
        if not isinstance(holder[key], dict) or draw(st.integers(0, 3)) == 0:
            break
        holder = holder[key]
    kind = draw(st.sampled_from(["remove", "scalar", "nan", "short", "dtype"]))
    value = holder[key]
    if kind == "remove":
        del holder[key]
    elif kind == "scalar" or not isinstance(value, torch.Tensor):
        holder[key] = draw(SCALARS)
    else:
        changed = {"nan": value * float("nan"), "short": value.reshape(-1)[:-1], "dtype": value.to(torch.int16)}
        holder[key] = changed[kind]
    return _saved(state), f"{'/'.join(told)}: {kind}"


def read(folder: Path) -> None:
    config = settings()
    claim_folder(folder, config)
    model = HookedDCFormer(model_config(config, None).replace(device="cpu", dtype=torch.float32), seed=0)
    optimizer = make_optimizer(model, config)
    step = load_state(folder, model, optimizer, make_scheduler(optimizer, config))
    assert isinstance(step, int)
    model(torch.arange(5)[None], return_type="loss").backward()
    optimizer.step()
    read_metrics(folder)
