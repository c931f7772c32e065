"""What a browser may have opened: models, stores and studies in the configured folders, the hub where that is allowed.

Settings come from the environment, which `workbench app` fills from its options; nothing that a browser sends changes
them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from model import list_models
from model.checkpoints.hub import is_hub_id
from model.checkpoints.load import is_model_directory, model_directories

MODELS = "WORKBENCH_MODELS"
"""Folders of model directories, or model directories themselves, separated as in PATH."""
STORES = "WORKBENCH_STORES"
"""Folders of stores and studies, separated as in PATH."""
ALLOW_HUB = "WORKBENCH_ALLOW_HUB"
"""1, yes, true or on: models may be fetched from the Hugging Face hub when a person asks for one."""

_ROOT = Path(__file__).parents[1]
OWN_STORES = (_ROOT / "studies", _ROOT / "runs")
"""Where the workbench's own studies lie, and where its commands write unless told otherwise."""
MOST_FILES = 20_000
"""Files of a directory that are looked at; one with more is not opened."""


def model_folders(environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """The folders in which models may be opened, without those that are not there."""
    return _folders(environment, MODELS)


def store_folders(environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """The folders in which stores and studies may be opened: those given, then those of the workbench itself."""
    return (*_folders(environment, STORES), *(folder for folder in OWN_STORES if folder.is_dir()))


def given_folders(environment: Mapping[str, str], name: str) -> tuple[Path, ...]:
    """The folders that MODELS or STORES names, as whole paths from where this process stands, also those not there."""
    texts = [text for text in environment.get(name, "").split(os.pathsep) if text]
    # unlike Path.resolve, realpath takes links in a circle on every Python
    return tuple(Path(os.path.realpath(Path(text).expanduser())) for text in texts)


def _folders(environment: Mapping[str, str], name: str) -> tuple[Path, ...]:
    return tuple(folder for folder in given_folders(environment, name) if folder.is_dir())


def hub_allowed(environment: Mapping[str, str] = os.environ) -> bool:
    """May the hub be asked?"""
    return environment.get(ALLOW_HUB, "").lower() in ("1", "yes", "true", "on")


def offered_models(folders: Iterable[Path]) -> list[str]:
    """Every model that can be chosen without typing: the bundled ones, then the model directories in the folders."""
    found = list_models()
    for folder in folders:
        inside = [folder] if is_model_directory(folder) else model_directories(folder)
        found += [str(path) for path in inside if allowed_directory(str(path), [folder]) is not None]
    return list(dict.fromkeys(found))


def allowed_model(reference: str, folders: Sequence[Path], hub: bool) -> str:
    """What load_model may be given for a reference that a stranger typed.

    Args:
        reference: a bundled model, a model directory (its path, or its name within one of the folders), or a hub id.
        folders: where model directories may be, see model_folders. hub: may the hub be asked?
    Returns:
        The reference itself, or the path of the directory, spelt as list_models spells it.
    Raises:
        ValueError: nothing there that may be opened; one sentence that names no folder.
    """
    if reference in list_models():
        return reference
    if not reference.strip() or "\0" in reference:
        raise ValueError("No model was named. Give a model directory or a bundled model, demo/dcformer say.")
    directory = allowed_directory(reference, folders)
    if directory is not None:
        return str(directory)
    if is_hub_id(reference):
        if hub:
            return reference
        raise ValueError(
            f"{reference!r} is no model directory here, and the Hugging Face hub may not be asked: start the workbench "
            f"with {ALLOW_HUB}=1, or name a directory in the folder of models."
        )
    raise ValueError(
        f"{reference!r} may not be opened: it is no directory within the folders of models. Name one that is, or start "
        f"the workbench with --models and the folder that holds it."
    )


def allowed_store(typed: str, folders: Sequence[Path]) -> Path:
    """The directory of a store or study that a stranger typed.

    Args:
        typed: its path, or its name within one of the folders. folders: see store_folders.
    Raises:
        ValueError: nothing there that may be opened; one sentence that names no folder.
    """
    directory = None if not typed.strip() or "\0" in typed else allowed_directory(typed, folders)
    if directory is None:
        raise ValueError(
            f"{typed[:200]!r} may not be opened: it is no directory within the folders of stores and studies. Name one "
            "that is, or start the workbench with --stores and the folder that holds it."
        )
    return directory


def allowed_directory(reference: str, folders: Iterable[Path]) -> Path | None:
    """The directory that a path means, if it and all that is in it lies within one of the folders, links followed."""
    if ".." in Path(reference).parts:
        return None
    for folder in folders:
        # an absolute path stays itself
        directory = folder / reference
        try:
            inside = folder.resolve()
            if directory.is_dir() and _within(directory, inside) and all(
                number < MOST_FILES and _within(path, inside) and not (path.is_symlink() and path.is_dir())
                for number, path in enumerate(directory.rglob("*"))
            ):  # fmt: skip
                return directory
        except (OSError, RuntimeError):  # a name too long, a folder that may not be read, links in a circle
            continue
    return None


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder)
