"""Foreign words inside our sentences, and JSON from files that may hold anything."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any


def one_line(text: object, longest: int = 300) -> str:
    """A name, or the error of a library, as part of a sentence: printable, on one line, its middle left out if long."""
    plain = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in " ".join(str(text).split()))
    if len(plain) <= longest:
        return plain
    half = (longest - 5) // 2
    return f"{plain[:half]} ... {plain[-half:]}"


def quoted(value: object, longest: int = 300) -> str:
    """A value that was given, as part of a sentence: as Python writes it, on one line, its middle left out if long."""
    return one_line(repr(value), longest)


def parse_json(text: str | bytes) -> Any:
    """What a JSON text holds.

    Raises:
        ValueError: it is none, names a key of an object twice, nests too deeply or holds too long a number; the reason
            in a few words.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError(one_line(error)) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {one_line(twice)!r} stands there twice")
    return found
