"""What a run leaves on disk: the one state from which it goes on, and models kept for good."""

from __future__ import annotations

import json
import math
import random
import shutil
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from model.checkpoints import save_model
from model.checkpoints.tensors import refuse_bombs
from model.config import DCFormerConfig
from model.free_memory import is_out_of_memory
from model.locks import locked
from model.plain_words import one_line, parse_json, quoted
from model.training.config import TrainConfig
from model.transformer import HookedDCFormer
from model.whole_files import NotWritten, write_whole

STATE, CONFIG, KEPT, FINAL, LOCK = "resume.pt", "config.json", "checkpoints", "final", "train.lock"

# all tensors whole, on the CPU of the first process: the same file whatever number of processes wrote it
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def save_state(
    out: Path, model: HookedDCFormer, optimizer: Optimizer, scheduler: LambdaLR, step: int, first: bool
) -> None:
    """Replace the run's state; the one before stays until the new one is whole. Every process must call it."""
    state = {
        "step": step,
        "model": get_model_state_dict(model, options=_WHOLE),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=_WHOLE),
        "scheduler": scheduler.state_dict(),
        "random": _random_states(),
    }
    if first:
        try:
            write_whole(out / STATE, lambda file: torch.save(state, file))
        except RuntimeError as error:
            raise NotWritten(
                out / STATE, error.__context__ or error
            ) from error  # torch's writer hides the disk's error


def load_state(out: Path, model: HookedDCFormer, optimizer: Optimizer, scheduler: LambdaLR) -> int:
    """Fill everything from the run's state, if there is one; the steps that were done.

    Raises:
        ValueError: the file cannot be read, or memory runs out over it.
    """
    path = out / STATE
    if not path.exists():
        return 0
    try:
        refuse_bombs(path)
        _check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        _check_state(state, model)
        _check_groups(state["optimizer"].get("param_groups"), model, optimizer)
        set_model_state_dict(model, state["model"], options=_WHOLE)
        set_optimizer_state_dict(model, optimizer, state["optimizer"], options=_WHOLE)
        scheduler.load_state_dict(state["scheduler"])
        _set_random_states(state["random"])
    except Exception as error:
        # whatever a damaged archive or a foreign state makes torch stumble over means the same
        reason = one_line(str(error).partition(chr(10))[0] or type(error).__name__).rstrip(".")
        if is_out_of_memory(error):
            raise ValueError(
                f"There is not enough memory to go on from {path} ({reason}). The file is kept: free some memory, and "
                "start the run again."
            ) from error
        raise ValueError(
            f"{path} is damaged: {reason}. Put it back from a copy, or start anew in another folder."
        ) from error
    return state["step"]


def _check_sums(path: Path) -> None:
    """Read the archive once and compare it with its own sums, which torch itself does not."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the record {damaged} does not have its sum")


def _check_state(state: Any, model: HookedDCFormer) -> None:
    """Is this the state of such a model, and are its numbers as they must be?"""
    needed = {"step": int, "model": dict, "optimizer": dict, "scheduler": dict, "random": dict}
    if not isinstance(state, dict) or any(not isinstance(state.get(name), kind) for name, kind in needed.items()):
        raise ValueError(f"it needs {', '.join(needed)}")
    if state["step"] < 1 or state["scheduler"].get("last_epoch") != state["step"]:
        raise ValueError(f"it says step {state['step']}, its schedule {state['scheduler'].get('last_epoch')}")
    ours, moments = model.state_dict(), state["optimizer"].get("state")
    if not isinstance(moments, dict):
        raise ValueError("the optimizer has no state")
    wrong = [name for name, tensor in ours.items() if _differs(state["model"].get(name), tensor)]
    wrong += [
        f"the optimizer's {name}" for name, held in moments.items() if _no_moments(held, ours.get(name), state["step"])
    ]
    if wrong:
        raise ValueError(f"{wrong[0]} is not there, of another shape or dtype, or not finite")


def _check_groups(held: Any, model: HookedDCFormer, optimizer: Optimizer) -> None:
    """Are these the groups of this optimizer: each parameter once, and settings as the recipe makes them?"""
    ours = optimizer.param_groups
    if not isinstance(held, list) or len(held) != len(ours) or not all(isinstance(one, dict) for one in held):
        raise ValueError("the optimizer's groups are not those of this recipe")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for theirs, group in zip(held, ours, strict=True):
        settings = {name: value for name, value in group.items() if name not in ("params", "lr", "initial_lr")}
        wrong = [name for name, value in settings.items() if name in theirs and _plain(theirs[name]) != _plain(value)]
        if wrong or theirs.get("params") != [names[id(one)] for one in group["params"]]:
            raise ValueError(f"a group of the optimizer differs in {(wrong or ['params'])[0]}")
        if not all(
            isinstance(theirs.get(name), float) and math.isfinite(theirs[name]) for name in ("lr", "initial_lr")
        ):
            raise ValueError("a group of the optimizer has no learning rate")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _no_moments(held: Any, ours: Tensor | None, step: int) -> bool:
    """Are these not what AdamW keeps of a parameter?"""
    if not isinstance(held, dict) or ours is None or set(held) != {"step", "exp_avg", "exp_avg_sq"}:
        return True
    if _differs(held["step"], torch.zeros(())) or any(_differs(held[name], ours) for name in ("exp_avg", "exp_avg_sq")):
        return True
    return bool(held["step"] != step) or bool((held["exp_avg_sq"] < 0).any())


def _differs(held: Any, ours: Tensor) -> bool:
    same = isinstance(held, Tensor) and held.shape == ours.shape and held.dtype == ours.dtype
    return not same or not bool(held.isfinite().all())


def keep_model(target: Path, model: HookedDCFormer, cfg: DCFormerConfig, tokenizer: Any | None, first: bool) -> None:
    """Write the weights as a model directory that load_model reads. Every process must call it."""
    weights = get_model_state_dict(model, options=_WHOLE)
    if first:
        save_model(_on_cpu(weights, cfg, tokenizer), target)


def _on_cpu(weights: dict[str, Any], cfg: DCFormerConfig, tokenizer: Any | None) -> HookedDCFormer:
    with torch.device("meta"):
        whole = HookedDCFormer(cfg.replace(device="cpu"), tokenizer=tokenizer, seed=None)
    whole.load_state_dict(weights, assign=True)
    if cfg.tie_embeddings:
        # assigned one by one, the two would be written twice
        whole.unembed.weight = whole.embed.W_E
    return whole


def kept_models(out: Path) -> dict[int, Path]:
    """Step -> model directory, of every checkpoint that was kept."""
    return {int(path.name.removeprefix("step-")): path for path in sorted((out / KEPT).glob("step-*"))}


def kept_path(out: Path, step: int) -> Path:
    return out / KEPT / f"step-{step:08d}"


def claim_folder(out: Path, config: TrainConfig) -> None:
    """Note in the folder which run it holds, and clear away what a killed run left half written.

    Raises:
        ValueError: the folder holds another run, or files but no run.
    """
    wanted, path = json.loads(json.dumps(config.decides())), out / CONFIG
    if path.exists():
        _refuse_other(_held(path), wanted, out)
    else:
        _refuse_foreign(out)
        write_whole(path, lambda file: file.write(json.dumps(wanted, indent=1).encode()))
    for left in (*out.glob(".*.new"), *(out / KEPT).glob(".*.new")):
        shutil.rmtree(left)


def only_one(out: Path) -> AbstractContextManager[None]:
    """While this is open, no other process trains into the folder.

    Raises:
        ValueError: one does, or the folder holds files but no run: nothing is then put there.
    """
    _refuse_foreign(out)
    return locked(out / LOCK, f"Another process is training into {out}. Wait for it, end it, or give another folder.")


def _refuse_foreign(out: Path) -> None:
    known = (out / CONFIG).exists() or not out.is_dir()
    if not known and any(not entry.name.endswith((".tmp", ".lock")) for entry in out.iterdir()):
        raise ValueError(f"{out} holds files but no training run. Give a new or empty folder.")


def _held(path: Path) -> dict[str, Any]:
    try:
        held = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({one_line(error)}). Put it back from a copy.") from error
    if not isinstance(held, dict):
        raise ValueError(f"{path} must hold an object, got {type(held).__name__}. Put it back from a copy.")
    return held


def _refuse_other(held: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    different = [name for name in wanted if held.get(name) != wanted[name]]
    if different:
        name = different[0]
        raise ValueError(
            f"{out} holds a run with {name}={quoted(held.get(name))}, but {name}={quoted(wanted[name])} is asked "
            "for. Give another folder, or the same settings."
        )


def _random_states() -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    cuda: list[Tensor] = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": [version, list(numbers), gauss], "torch": torch.get_rng_state(), "cuda": cuda}


def _set_random_states(states: dict[str, Any]) -> None:
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(states["torch"])
    if torch.cuda.device_count() == len(states["cuda"]) > 0:
        torch.cuda.set_rng_state_all(states["cuda"])
