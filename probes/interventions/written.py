"""Changes as JSON and back, so that a finding can be kept, sent and run again."""

from __future__ import annotations

import json
from dataclasses import fields
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.plain_words import one_line, parse_json
from probes.interventions.change import Change, Combined
from probes.interventions.intervention import Intervention
from probes.mean_mixing import MeanMixing


def to_json(change: Change) -> str:
    """A list of interventions, each with the fields that differ from their defaults, in the order of application.

    Raises:
        ValueError: a change that is not made of interventions.
    """
    return json.dumps([_written(part) for part in change.parts()])


def from_json(text: str) -> Change:
    """What to_json wrote.

    Raises:
        ValueError: not such a list, or a field that interventions do not have.
    """
    try:
        listed = parse_json(text)
    except ValueError as error:
        raise ValueError(f"This is no JSON: {error}. Give what to_json wrote.") from error
    if not isinstance(listed, list) or not listed or not all(isinstance(part, dict) for part in listed):
        raise ValueError("Interventions are written as a list of objects. Give what to_json wrote.")
    parts = tuple(_read(part) for part in listed)
    return parts[0] if len(parts) == 1 else Combined(parts)


def _written(part: Change) -> dict[str, Any]:
    if not isinstance(part, Intervention):
        raise ValueError(f"A {type(part).__name__} cannot be written as JSON; interventions and their sums can.")
    given = {f.name: getattr(part, f.name) for f in fields(part)}
    return {
        name: _plain(value)
        for name, value in given.items()
        if isinstance(value, Tensor | MeanMixing) or value != getattr(Intervention, name)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, MeanMixing):
        return {"tokens": value.tokens, "matrices": [[*key, m.tolist()] for key, m in value.matrices.items()]}
    if isinstance(value, str | float):
        return value
    if isinstance(value, Integral):
        return int(value)
    return [_plain(item) for item in value]


def _read(part: dict[str, Any]) -> Intervention:
    known = [f.name for f in fields(Intervention)]
    if unknown := set(part) - set(known):
        raise ValueError(
            f"Interventions have no {one_line(', '.join(sorted(unknown)))}. They have: {', '.join(known)}."
        )
    given = dict(part)
    if isinstance(given.get("value"), list):
        given["value"] = _tensor("value", given["value"], torch.float64)
    if isinstance(given.get("prompt"), list):
        given["prompt"] = _tensor("prompt", given["prompt"], torch.int64)
    if given.get("mean") is not None:
        given["mean"] = _mean(given["mean"])
    return Intervention(**given)


def _tensor(name: str, listed: list[Any], dtype: torch.dtype) -> Tensor:
    try:
        array = np.array(listed)
        if array.dtype.kind not in ("iu" if dtype == torch.int64 else "iuf"):
            raise ValueError(f"an entry is {array.dtype}")
        return torch.from_numpy(array).to(dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(
            f"The {name} of this intervention must be a table of numbers ({one_line(error)}). Give what to_json wrote."
        ) from error


def _mean(written: Any) -> MeanMixing:
    try:
        matrices = {
            (int(layer), str(site), str(branch)): _tensor("mean", matrix, torch.float64)
            for layer, site, branch, matrix in written["matrices"]
        }
        return MeanMixing(matrices, int(written["tokens"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"The mean of this intervention cannot be read ({one_line(error)}). Give what to_json wrote."
        ) from error
