"""Large models: what one takes and whether that fits, said before it is loaded; and those that are loaded."""

from __future__ import annotations

import ctypes
import gc
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from model import HookedDCFormer, list_models
from model.checkpoints.load import check_checkpoint, pick_device
from model.checkpoints.spread import free_gpus
from model.config import DCFormerConfig, dtype_name
from model.free_memory import WillNotFit, free_memory, require_fit
from model.memory import MemoryPlan, in_words, plan
from workbench.model_choice import AUTO, ModelChoice

PLANNED = ("generate", "capture", "last", "logits")
"""What the app does with a model, of model.memory.MODES."""


@dataclass(frozen=True)
class LoadPlan:
    """What a model and one run of it take, beside what is free.

    device: on which it would be loaded. free: bytes that are free there, what the model itself holds counted as free.
    refusal: why it cannot be loaded (the weights alone do not fit), else None.
    warning: why the planned run would be refused once it is loaded, else None.
    """

    cfg: DCFormerConfig
    planned: MemoryPlan
    device: str
    free: int
    refusal: str | None
    warning: str | None

    @property
    def verdict(self) -> str:
        """Where nothing speaks against it."""
        return f"It fits: {in_words(self.planned.total)} at the peak, {in_words(self.free)} are free on {self.device}."


def plan_load(choice: ModelChoice, tokens: int | None = None, mode: str = PLANNED[0]) -> LoadPlan:
    """What a model and one run of it take, compared with what is free now; arguments and errors as for read_plan."""
    return compared(choice, read_plan(choice, tokens, mode))


def read_plan(choice: ModelChoice, tokens: int | None = None, mode: str = PLANNED[0]) -> MemoryPlan:
    """Plan by config.json and the headers of the weights (of a hub id by its config.json alone).

    Args:
        choice: what allowed_model allows. tokens: of the planned run; None = the model's context. mode: of PLANNED.
    Raises:
        ValueError: no checkpoint there, one that load_model would refuse by what these say, or more tokens than its
            context.
    """
    device = pick_device(choice.device)
    cfg = check_checkpoint(choice.reference, choice.dtype)
    return plan(cfg, tokens=tokens or cfg.n_ctx, dtype=cfg.dtype, device=device, mode=mode)


def compared(choice: ModelChoice, planned: MemoryPlan, held: int = 0) -> LoadPlan:
    """A plan beside what is free where it would run.

    Args:
        held: bytes that this very model holds there already.
    """
    device, cfg = pick_device(choice.device), planned.run.cfg
    free, weights = _free(choice, device) + held, planned.parts["weights"]
    if weights > free:
        return LoadPlan(cfg, planned, str(device), free, _too_large(choice, cfg, weights, free, device), None)
    try:
        require_fit(planned, device, free)
    except WillNotFit as error:
        return LoadPlan(cfg, planned, str(device), free, None, f"The model fits, this run will not. {error}")
    return LoadPlan(cfg, planned, str(device), free, None, None)


def _free(choice: ModelChoice, device: torch.device) -> int:
    """Free bytes where load_model would put it: "auto" may spread a model over several GPUs."""
    if choice.device == AUTO and device.type == "cuda":
        return sum(free_gpus().values())
    return free_memory(device)


def _too_large(choice: ModelChoice, cfg: DCFormerConfig, weights: int, free: int, device: torch.device) -> str:
    narrower = "dtype bfloat16, " if cfg.dtype.itemsize > 2 else ""
    return (
        f"Its weights need {in_words(weights)} in {dtype_name(cfg.dtype)}, but {in_words(free)} are free on {device}. "
        f"Choose {narrower}another device, or a smaller model; unloading others frees what they hold."
    )


def devices() -> list[str]:
    """What a model can be loaded on here; "auto" is the first GPU, or all of them, or the CPU."""
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [AUTO, "cpu", *gpus, *mps]


def is_remote(choice: ModelChoice) -> bool:
    """Is it neither bundled nor a directory here, so that only the hub can tell?"""
    return choice.reference not in list_models() and not Path(choice.reference).is_dir()


class LoadedModels:
    """The models that were loaded on purpose: they stay until they are unloaded. Any thread may ask."""

    def __init__(self) -> None:
        self._models: dict[str, HookedDCFormer] = {}
        self._guard = threading.Lock()

    def get(self, name: str) -> HookedDCFormer | None:
        with self._guard:
            return self._models.get(name)

    def add(self, name: str, model: HookedDCFormer) -> None:
        with self._guard:
            self._models[name] = model

    def remove(self, name: str) -> None:
        """Let go of it; nothing happens where it is not there."""
        with self._guard:
            self._models.pop(name, None)

    def names(self) -> list[str]:
        with self._guard:
            return list(self._models)


def give_back_memory() -> None:
    """Return what nobody holds any more to the system.

    Modules refer to themselves, PyTorch keeps GPU memory, and the C library keeps freed tensors of up to 32 MiB.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)


def weight_bytes(model: HookedDCFormer) -> int:
    """Bytes of a model's weights, tied ones once."""
    return sum({id(parameter): parameter.nbytes for parameter in model.parameters()}.values())
