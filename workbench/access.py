"""What a browser may have opened: models in the configured folders, and the hub only where that is allowed.

Settings come from the environment, which `workbench app` fills from its options; nothing that a browser sends changes
them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from model import list_models
from model.checkpoints.hub import is_hub_id

MODELS = "WORKBENCH_MODELS"
"""Folders of model directories, or model directories themselves, separated as in PATH."""
ALLOW_HUB = "WORKBENCH_ALLOW_HUB"
"""1, yes, true or on: models may be fetched from the Hugging Face hub when a person asks for one."""


def model_folders(environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """The folders in which models may be opened, without those that are not there."""
    given = [Path(text).expanduser() for text in environment.get(MODELS, "").split(os.pathsep) if text]
    return tuple(folder for folder in given if folder.is_dir())


def hub_allowed(environment: Mapping[str, str] = os.environ) -> bool:
    """May the hub be asked?"""
    return environment.get(ALLOW_HUB, "").lower() in ("1", "yes", "true", "on")


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


def allowed_directory(reference: str, folders: Iterable[Path]) -> Path | None:
    """The directory that a path means, if it and all files in it lie within one of the folders, links followed."""
    if ".." in Path(reference).parts:
        return None
    for folder in folders:
        # an absolute path stays itself
        directory, inside = folder / reference, folder.resolve()
        try:
            if directory.is_dir() and all(_within(path, inside) for path in (directory, *directory.iterdir())):
                return directory
        except OSError:  # a name too long for a file system, or a folder that may not be read
            continue
    return None


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder)
