"""One YAML file for several runs: a pair of models, several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from model.plain_words import one_line, quoted
from model.training.config import TrainConfig


def read_runs(
    path: str | Path,
    run: str | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    steps: int | None = None,
) -> list[TrainConfig]:
    """The runs that a file describes, or those of them that are asked for.

    A file holds the fields of TrainConfig and, beside them, `runs` (name -> fields that this run changes) and
    `seeds` (a list). Each run gets the folder out/<name>/seed-<seed>, without <name> where the file has no `runs`.

    Args:
        run: only this one of `runs`.
        seed: only this seed, whether or not the file lists it.
        out: the run's own folder, when exactly one is asked for.
        steps: instead of the file's.
    Raises:
        ValueError: the file is unreadable, or a key is unknown or contradicts another or the request.
    """
    fields = _read(Path(path))
    variants = _variants(fields.pop("runs", None), run, path)
    seeds = _seeds(fields, seed)
    if steps is not None:
        fields["steps"] = steps
    found = [
        TrainConfig.from_dict(_fields(fields, name, changes, one, out), f"{path}{f', run {name},' if name else ''}")
        for name, changes in variants.items()
        for one in seeds
    ]
    if out is not None and len(found) > 1:
        names = ", ".join(f"{config.name} seed {config.seed}" for config in found)
        raise ValueError(f"One folder was given for {len(found)} runs ({names}). Choose one by its run and seed.")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = one_line(error)
        raise ValueError(f"{path} cannot be read as YAML: {reason}.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold the fields of a training run, got {type(fields).__name__}.")
    return fields


def _variants(given: Any, run: str | None, path: str | Path) -> dict[str, dict[str, Any]]:
    if given is None:
        if run is not None:
            raise ValueError(f"Run {quoted(run)} was asked for, but {path} has no runs.")
        return {"": {}}
    if not isinstance(given, dict) or not given or not all(isinstance(v, dict) or v is None for v in given.values()):
        raise ValueError(f"runs in {path} must map each run's name to the fields that it changes, got {quoted(given)}.")
    variants = {str(name): changes or {} for name, changes in given.items()}
    if any({"seed", "name"} & set(changes) for changes in variants.values()):
        raise ValueError(f"A run in {path} sets seed or name: its key is its name, and seeds holds for all runs.")
    if run is not None and run not in variants:
        raise ValueError(f"Run {quoted(run)} is not in {path}. Choose one of {', '.join(variants)}.")
    return variants if run is None else {run: variants[run]}


def _seeds(fields: dict[str, Any], asked: int | None) -> list[int]:
    if "seeds" in fields and "seed" in fields:
        raise ValueError(
            f"seed={quoted(fields['seed'])} contradicts seeds={quoted(fields['seeds'])}: give one of them."
        )
    seeds = fields.pop("seeds", [fields.pop("seed", TrainConfig.seed)])
    if not isinstance(seeds, list) or not seeds:
        raise ValueError(f"seeds must be a list of whole numbers, got {quoted(seeds)}.")
    return seeds if asked is None else [asked]


def _fields(
    shared: dict[str, Any], name: str, changes: dict[str, Any], seed: int, out: str | Path | None
) -> dict[str, Any]:
    fields = shared | changes
    fields.setdefault("name", name or TrainConfig.name)
    folder = Path(str(fields.get("out", TrainConfig.out))) / name / f"seed-{seed}"
    return fields | {"seed": seed, "out": str(folder if out is None else out)}
