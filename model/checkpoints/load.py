"""load_model, read_config and list_models: from a name to a model, or to what its config.json says of it."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints import hub, spread
from model.checkpoints.assemble import Watch, check_tensors, empty_model, fill, stored_dtype
from model.checkpoints.errors import ModelLoadError
from model.checkpoints.fields import CONFIG_NAME, ConfigFile
from model.checkpoints.layout import Layout
from model.checkpoints.registry import layout_of
from model.checkpoints.tensors import WeightFiles, open_weights
from model.checkpoints.tokenizer_files import load_tokenizer, puts_bos_first
from model.config import DTYPES, DCFormerConfig, parse_dtype
from model.plain_words import one_line
from model.transformer import HookedDCFormer

ZOO = Path(__file__).parent.parent / "zoo"
_BUNDLED = "demo/"


def load_model(
    source: str | Path, device: str | torch.device = "auto", dtype: str | torch.dtype | None = None, *,
    watch: Watch | None = None,
) -> HookedDCFormer:  # fmt: skip
    """A model in eval mode, its weights on the device.

    Weights are read one at a time straight to their place and their dtype: the peak is the weights plus the
    largest tensor.

    Args:
        source: "demo/dcformer" or "demo/transformer" (bundled), a directory in a published layout, our own or
            GPT-NeoX's, or a hub id "org/name".
        device: "auto" takes CUDA, else MPS, else the CPU; a model that fits no single GPU is spread over several.
        dtype: of the weights and the computation, by name or as a torch dtype; None = as they are stored.
        watch: called between two weights with (bytes loaded, bytes of all); what it raises gives the loading up.
    Raises:
        ModelLoadError: the source is unknown, a file is unreadable, a tensor is missing, left over or misshapen,
            or the architecture would be computed wrongly, or the weights do not fit. The message names which.
    """
    where = pick_device(device)
    try:
        return _load(source, where, dtype, watch, spread_out=device == "auto")
    except (MemoryError, RuntimeError) as error:
        # torch's allocator of the CPU raises RuntimeError, its subclass for GPUs OutOfMemoryError
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        # the frames of the failed load hold the weights so far for as long as someone keeps the error
        traceback.clear_frames(error.__traceback__)
        raise ModelLoadError(
            f"There is not enough memory on {where} to load {source} ({one_line(error, 120)}). Free some, choose "
            "another device or dtype='bfloat16', or take a smaller model."
        ) from error


def _load(
    source: str | Path, where: torch.device, dtype: str | torch.dtype | None, watch: Watch | None, spread_out: bool
) -> HookedDCFormer:
    config, layout, weights, cfg = _open(source, dtype)
    _check_pair(where, cfg.dtype)
    tokenizer = load_tokenizer(weights.directory, cfg.d_vocab)
    cfg = cfg.replace(device=str(where), default_prepend_bos=puts_bos_first(tokenizer))
    model = empty_model(cfg, tokenizer)
    sources = layout.sources(model, config, weights)
    check_tensors(model, layout, sources, config, weights)
    devices = spread.place(model, where, spread.free_gpus() if spread_out and where.type == "cuda" else None)
    model = fill(model, sources, weights, lambda name: spread.device_of(devices, name), watch).eval()
    return model if len(devices) == 1 else spread.dispatch(model, devices)


def check_checkpoint(source: str, dtype: str | torch.dtype | None = None) -> DCFormerConfig:
    """The configuration that load_model would give, after all of its checks that need no weight and no tokenizer.

    Of a directory it reads config.json, the headers of the weights and, in the published layouts, the H x H static
    matrices. Of a hub id config.json alone is fetched, whose dtype is then taken for that of the weights.

    Raises:
        ModelLoadError: as load_model.
    """
    if hub.is_hub_id(source) and not source.startswith(_BUNDLED) and not Path(source).is_dir():
        cfg = read_config(source)
        return cfg if dtype is None else cfg.replace(dtype=_pick_dtype(dtype))
    config, layout, weights, cfg = _open(source, dtype)
    model = empty_model(cfg)
    check_tensors(model, layout, layout.sources(model, config, weights), config, weights)
    return cfg


def _open(
    source: str | Path, dtype: str | torch.dtype | None
) -> tuple[ConfigFile, Layout, WeightFiles, DCFormerConfig]:
    """A checkpoint's files and its configuration, with the dtype asked for, or that of most of its weights."""
    wanted = None if dtype is None else _pick_dtype(dtype)
    directory, name = _locate(source)
    config = ConfigFile.read(directory)
    layout = layout_of(config)
    weights = open_weights(directory)
    cfg = _configuration(layout, config, weights, name)
    if wanted is None:
        wanted = stored_dtype(weights, (tensor for tensor in weights.entries if not layout.is_derived(tensor, cfg)))
    return config, layout, weights, cfg.replace(dtype=wanted)


def read_config(source: str | Path) -> DCFormerConfig:
    """The configuration of a model on disk, by its config.json alone: the weights need not be there.

    Its dtype is the one that config.json names (float32 if none). The published layouts leave what only their
    weights say to the published models' choice: one group, rank 2, no static mixing.

    Args:
        source: as for load_model; of a hub id only config.json is fetched.
    Raises:
        ModelLoadError: the source is unknown, or its config.json cannot be used.
    """
    directory, name = _locate(source, config_only=True)
    config = ConfigFile.read(directory)
    cfg = _configuration(layout_of(config), config, _UnreadWeights(directory), name)
    stored = config.values.get("torch_dtype") or config.values.get("dtype")
    return cfg.replace(dtype=DTYPES[stored]) if stored in DTYPES else cfg


def list_models(folder: str | Path | None = None) -> list[str]:
    """What load_model takes: the bundled models, then the model directories in a folder."""
    names = [f"{_BUNDLED}{directory.name}" for directory in model_directories(ZOO)]
    if folder is None:
        return names
    if not Path(folder).expanduser().is_dir():
        raise ModelLoadError(f"{folder} is not a folder. Give one that holds model directories.")
    return names + [str(directory) for directory in model_directories(Path(folder).expanduser())]


def model_directories(folder: Path) -> list[Path]:
    """The directories in a folder whose config.json names a layout that can be read."""
    return [path.parent for path in sorted(folder.glob(f"*/{CONFIG_NAME}")) if is_model_directory(path.parent)]


def is_model_directory(directory: Path) -> bool:
    try:
        layout_of(ConfigFile.read(directory))
    except ModelLoadError:
        return False
    return True


def pick_device(device: str | torch.device) -> torch.device:
    """A device that is there; "auto" is CUDA, else MPS, else the CPU."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(kind for kind, present in available.items() if present))
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ModelLoadError(
            f"device={device!r} is not known. Use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'."
        ) from error
    beyond = chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count()
    if beyond or not available.get(chosen.type, False):
        present = ", ".join(kind for kind, there in available.items() if there)
        raise ModelLoadError(f"device={str(device)!r} was asked for, but this machine has {present}. Use 'auto'.")
    return chosen


def _pick_dtype(dtype: str | torch.dtype) -> torch.dtype:
    if not isinstance(dtype, str | torch.dtype) or (isinstance(dtype, torch.dtype) and dtype not in DTYPES.values()):
        raise ModelLoadError(f"dtype={dtype!r} is not known. Choose one of {', '.join(DTYPES)}.")
    return parse_dtype(dtype)


def _check_pair(device: torch.device, dtype: torch.dtype) -> None:
    if device.type == "mps" and dtype == torch.float64:
        raise ModelLoadError("device='mps' has no float64. Use dtype='float32', or device='cpu'.")


def _locate(source: str | Path, config_only: bool = False) -> tuple[Path, str]:
    """The directory that a source means, and the name the model gets from it."""
    text = str(source)
    if text.startswith(_BUNDLED) and (ZOO / text.removeprefix(_BUNDLED)) in model_directories(ZOO):
        return ZOO / text.removeprefix(_BUNDLED), text
    path = Path(source).expanduser()
    if path.is_dir():
        return path, path.resolve().name
    if path.exists():
        raise ModelLoadError(f"{path} is a file. Give the directory that holds it, with its {CONFIG_NAME}.")
    if isinstance(source, str) and hub.is_hub_id(source) and not text.startswith(_BUNDLED):
        return hub.fetch(source, config_only), source
    raise ModelLoadError(
        f"Unknown model {text!r}. Bundled: {', '.join(list_models()) or 'none'}. Anything else is a hub id (org/name) "
        f"or the path of a directory that holds {CONFIG_NAME} and model.safetensors."
    )


class _UnreadWeights(WeightFiles):
    """Stands in for the weights where only the configuration is wanted: no tensor is known."""

    def __init__(self, directory: Path):
        super().__init__(directory, {}, _read_nothing)

    def __len__(self) -> int:
        # how many layers a config.json may name
        return 10_000


def _read_nothing(path: Path, name: str) -> Tensor:
    raise KeyError(f"{name} was not to be read.")


def _configuration(layout: Layout, config: ConfigFile, weights: WeightFiles, name: str) -> DCFormerConfig:
    try:
        cfg = layout.read_config(config, weights)
    except ModelLoadError:
        raise
    except ValueError as error:
        raise ModelLoadError(f"{config.path}: {error}") from error
    return cfg if "model_name" in config.values else cfg.replace(model_name=name)
