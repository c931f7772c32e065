"""Values from a YAML file: their names and types checked, and functions named as "module:function"."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from types import NoneType
from typing import Any, get_args

from model.plain_words import one_line, quoted

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", dict: "a group of fields"}


def refuse_unknown(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise if a key is not known; nothing is dropped in silence."""
    allowed = set(known)
    unknown = sorted(set(map(str, given)) - allowed)
    if unknown:
        raise ValueError(
            f"{where} has an unknown key {one_line(', '.join(unknown))}. Known keys: {', '.join(sorted(allowed))}."
        )


def typed(name: str, value: Any, hint: Any) -> Any:
    """The value as the field's type asks for it.

    Raises:
        ValueError: it is of another type; the message names the field and both.
    """
    kinds = get_args(hint) or (hint,)
    if Any in kinds or (value is None and NoneType in kinds):
        return value
    if float in kinds and isinstance(value, str):
        # YAML 1.1 reads 3e-4, which has no dot, as text
        value = _number(value)
    if any(isinstance(value, kind) and isinstance(value, bool) == (kind is bool) for kind in kinds):
        return value
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    wanted = " or ".join(WORDS[kind] for kind in kinds if kind in WORDS)
    raise ValueError(f"{name} must be {wanted}, got {quoted(value)}.")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def named_function(name: str, meaning: str) -> Callable[..., Any]:
    """The function that "module:function" names.

    Raises:
        ValueError: there is no such module or function.
    """
    module, colon, function = name.partition(":")
    if not (module and colon and function):
        raise ValueError(f"{meaning} {quoted(name)} does not name a function. Write it as package.module:function.")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{meaning} {quoted(name)} cannot be imported: {error}. Run where it lies.") from error
    if not callable(found):
        raise ValueError(f"{meaning} {quoted(name)} is a {type(found).__name__}, not a function.")
    return found
