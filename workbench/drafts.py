"""The form of one intervention: fields as a person chooses them, to an Intervention and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from model.plain_words import parse_json
from probes.interventions import Change, Intervention, from_json
from probes.mean_mixing import MeanMixing

FORM_MODES = {
    "identity": "identity (uncomposed)",
    "zero": "zero",
    "scale": "scale (dose)",
    "mean": "mean (frozen)",
    "set": "set to a value",
    "shuffle": "shuffle tokens",
    "random": "random control",
}
"""Modes that the form offers, and what it calls them."""
MODE_TITLES = FORM_MODES | {"patch": "patch (from the corrupted row)"}
"""What modes are called, those that a form offers beside a pair of rows included."""
CHOICES = ("layers", "sites", "branches", "sources", "targets", "positions")
"""Fields that are lists; an empty one means all."""
TAKES = {"scale": "amount", "set": "value", "shuffle": "seed", "random": "seed"}
"""Modes with a number, and the field it goes to."""
LABEL = 80
"""Characters of a part of a label."""
DOSES = (-2.0, 4.0)


def intervention(fields: Mapping[str, Any], mean: MeanMixing | None = None) -> Intervention:
    """The intervention that a filled form means.

    Args:
        fields: mode, some of CHOICES, and the number (of patch: the prompt) that the mode takes.
        mean: what "mean" freezes to.
    Raises:
        ValueError: what Intervention refuses.
    """
    mode = fields["mode"]
    given: dict[str, Any] = {name: list(fields[name]) for name in CHOICES if fields.get(name)}
    if mode in TAKES:
        given[TAKES[mode]] = fields[TAKES[mode]]
    if mode == "mean":
        given["mean"] = mean
    if mode == "patch":
        given["prompt"] = fields["prompt"]
    return Intervention(mode=mode, **given)


def form_fields(part: Intervention) -> dict[str, Any] | None:
    """The form's fields for an intervention, or None where it holds something that the form cannot show."""
    taken = TAKES.get(part.mode)
    number = None if taken is None else getattr(part, taken)
    chosen = {name: list(getattr(part, name) or ()) for name in CHOICES}
    positions_each = any(not isinstance(position, int) for position in chosen["positions"])
    negative = any(layer_or_head < 0 for name in ("layers", "sources", "targets") for layer_or_head in chosen[name])
    if part.mode not in FORM_MODES or part.mode == "mean" or positions_each or negative or isinstance(number, Tensor):
        return None
    if part.mode == "scale" and not DOSES[0] <= part.amount <= DOSES[1]:  # type: ignore[operator]
        return None
    fields = {"mode": part.mode, **chosen}
    return fields if taken is None or number is None else fields | {taken: int(number) if taken == "seed" else number}


def loaded(text: str) -> Change:
    """Interventions from JSON that a person gave.

    Raises:
        ValueError: not what to_json writes, or a field of another type.
    """
    for number, part in enumerate(_objects(text), start=1):
        _check_types(number, part)
    return from_json(text)


def _objects(text: str) -> list[dict[str, Any]]:
    """The objects of a JSON list; [] where it is no such list, which from_json then says."""
    try:
        listed = parse_json(text)
    except ValueError:
        return []
    return [part for part in listed if isinstance(part, dict)] if isinstance(listed, list) else []


def _check_types(number: int, part: Mapping[str, Any]) -> None:
    for names, wanted, fits in TYPES:
        for name in names:
            if part.get(name) is not None and not fits(part[name]):
                raise ValueError(f"{name} of intervention {number} must be {wanted}, not {part[name]!r}.")


def _whole(item: Any) -> bool:
    return type(item) is int


def _number(item: Any) -> bool:
    return type(item) in (int, float)


def _text(item: Any) -> bool:
    return isinstance(item, str)


def _listed(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda given: isinstance(given, list) and all(map(fits, given))


def _either(*ways: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda given: any(fits(given) for fits in ways)


TYPES: tuple[tuple[tuple[str, ...], str, Callable[[Any], bool]], ...] = (
    (("layers", "sources", "targets"), "a list of whole numbers", _listed(_whole)),
    (("sites", "branches", "what"), "a list of names", _listed(_text)),
    (("positions", "prompt_positions"), "a list of whole numbers, or a list of these for each prompt",
     _either(_listed(_whole), _listed(_listed(_whole)))),
    (("mode",), "a name", _text),
    (("amount",), "a number", _number),
    (("value",), "a number or a matrix", _either(_number, _listed(_listed(_number)))),
    (("prompt",), "text, or token ids", _either(_text, _listed(_whole), _listed(_listed(_whole)))),
    (("seed",), "a whole number from 0", lambda seed: _whole(seed) and seed >= 0),
)  # fmt: skip
"""Fields of an intervention in JSON: which, what they must be, and whether something is."""


def label(change: Change) -> str:
    """A change in a few words, for a list to choose from."""
    return "; ".join(_part_label(part) for part in change.parts())


def _part_label(part: Change) -> str:
    said = [getattr(part, "mode", type(part).__name__)]
    for name in ("layers", "sites", "branches", "sources", "targets", "positions"):
        chosen = getattr(part, name, None)
        if chosen is not None:
            said.append(f"{name} {', '.join(map(str, chosen))}")
    text = " · ".join(said)
    return text if len(text) <= LABEL else f"{text[:LABEL]}…"
