"""The state of a page as the query parameters of its URL, and back. Everything in a URL is read as a stranger's."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

PLAIN_CHARACTERS = 300
"""Longest text that stands in a URL as it is; a longer one is packed."""
PACKED = "~"
"""First sign of a packed text."""
MAX_CHARACTERS = 1 << 20
"""Longest text that a URL may hold when unpacked: a few kilobytes must not become a gigabyte."""
MAX_URL = 16_000
"""Longest URL written, in characters: browsers and servers drop longer ones."""
LONGEST_READ = 1 << 18
"""Longest value of a URL that is looked at, in characters: no server passes on a longer one."""
SHOWN = 60


class Unreadable(ValueError):
    """A value of a URL that says nothing; the message says what would."""


@dataclass(frozen=True)
class Field:
    """One piece of a page's state.

    Attributes:
        key: in st.session_state, usually of a widget. name: in the URL.
        parse: text of the URL -> value; raises Unreadable. write: the reverse.
        default: the value where the URL says nothing, which then need not be said.
    """

    key: str
    name: str
    parse: Callable[[str], Any]
    write: Callable[[Any], str]
    default: Any = None


def text_field(key: str, name: str | None = None, default: str | None = "") -> Field:
    """Any text; a long one is packed, so that a prompt of thousands of characters fits."""
    return Field(key, _named(key, name), unpack_text, pack_text, default)


def integer_field(
    key: str, name: str | None = None, default: int | None = None, low: int | None = None, high: int | None = None
) -> Field:
    """A whole number from low to high, both included; None = no bound."""
    return Field(key, _named(key, name), lambda text: _bounded(_integer(text), low, high), str, default)


def number_field(
    key: str, name: str | None = None, default: float | None = None, low: float | None = None, high: float | None = None
) -> Field:
    """A finite number from low to high, both included; None = no bound."""
    return Field(key, _named(key, name), lambda text: _bounded(_number(text), low, high), repr, default)


def flag_field(key: str, name: str | None = None, default: bool = False) -> Field:
    """yes or no."""
    return Field(key, _named(key, name), lambda text: _one_of(("no", "yes"), text) == "yes", _yes, default)


def choice_field(key: str, options: Sequence[str], name: str | None = None, default: str | None = None) -> Field:
    """One of some texts; the first of them where there is no default."""
    options = list(options)
    first = default if default is not None or not options else options[0]
    return Field(key, _named(key, name), lambda text: _one_of(options, text), str, first)


def list_field(
    key: str, kind: type[int] | type[str] = str, name: str | None = None, options: Sequence[Any] | None = None
) -> Field:
    """Several whole numbers, or texts that are not empty, of `options` if these are given; at first none.

    Commas stand between them; a comma or backslash of a text has a backslash before it.
    """

    def parse(text: str) -> list[Any]:
        found: list[Any] = [_integer(part) if kind is int else part for part in _parts(text)]
        for item in found:
            if options is not None and item not in options:
                raise Unreadable(f"{_short(item)} is none of {_listed(options)}")
        return found

    return Field(key, _named(key, name), parse, _join, [])


def _join(items: Sequence[Any]) -> str:
    return ",".join(re.sub(r"([\\,])", r"\\\1", str(item)) for item in items)


def _parts(text: str) -> list[str]:
    found = re.findall(r"(?:^|,)((?:\\[\\,]|[^,])*)", text) if text else []
    return [re.sub(r"\\([\\,])", r"\1", part) for part in found]


def places_field(key: str, name: str, parts: Sequence[str], build: Callable[..., Any] | None = None) -> Field:
    """Several whole numbers, 0 or more, that mean something together only: "2.3.14.7".

    Args:
        parts: what they are. build: makes the value of them, by name, and has them as attributes; None = a tuple.
    """

    def parse(text: str) -> Any:
        found = text.split(".")
        if len(found) != len(parts):
            raise Unreadable(f"{len(parts)} whole numbers with dots between them are needed: {', '.join(parts)}")
        values = [_bounded(_integer(one), 0, None) for one in found]
        return tuple(values) if build is None else build(**dict(zip(parts, values, strict=True)))

    def write(value: Any) -> str:
        return ".".join(str(one) for one in (value if build is None else (getattr(value, part) for part in parts)))

    return Field(key, name, parse, write)


def window_field(key: str, name: str) -> Field:
    """The part of a map that is shown: "0-40.0-24", rows and columns, ends not included."""

    def parse(text: str) -> Any:
        pairs = tuple(tuple(_integer(end) for end in part.split("-")) for part in text.split("."))
        if len(pairs) != 2 or any(len(pair) != 2 or not 0 <= pair[0] < pair[1] for pair in pairs):
            raise Unreadable("rows and columns are needed as first-end.first-end")
        return pairs

    return Field(key, name, parse, lambda window: ".".join(f"{start}-{end}" for start, end in window))


def read_state(fields: Sequence[Field], parameters: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """What a URL says: values by key (only of fields that it names), and one sentence for each that it says wrongly."""
    values, refused = {}, []
    for field in fields:
        if field.name in parameters:
            if len(parameters[field.name]) > LONGEST_READ:
                refused.append(f"The link says more than {LONGEST_READ:,} characters of {field.name}; shorten it.")
                continue
            try:
                values[field.key] = field.parse(parameters[field.name])
            except Unreadable as error:
                refused.append(f"The link says {field.name}={_short(parameters[field.name])}, but {error}.")
    return values, refused


def write_state(fields: Sequence[Field], state: Mapping[str, Any]) -> dict[str, str]:
    """The query parameters that say a state. What is at its default is left out."""
    said = {}
    for field in fields:
        value = state.get(field.key)
        if value is not None and value != field.default:
            said[field.name] = field.write(value)
    return said


def fits(parameters: Mapping[str, str]) -> bool:
    """Is a URL with these short enough to be passed on?"""
    return len(urlencode(parameters)) <= MAX_URL


def pack_text(text: str) -> str:
    """A text for a URL: as it is, or compressed behind PACKED. Half a character (a lone surrogate) becomes "?"."""
    text = text.encode("utf-8", "replace").decode()
    if len(text) <= PLAIN_CHARACTERS and not text.startswith(PACKED):
        return text
    packed = zlib.compress(text.encode(), level=9)
    return PACKED + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def unpack_text(packed: str) -> str:
    """What pack_text was given.

    Raises:
        Unreadable: damaged, longer than MAX_CHARACTERS, or with half a character in it, which no widget takes.
    """
    if not packed.startswith(PACKED):
        return _bounded_text(packed)
    try:
        data = base64.b64decode(packed[1:] + "=" * (-(len(packed) - 1) % 4), altchars=b"-_", validate=True)
        reader = zlib.decompressobj()
        text = reader.decompress(data, 4 * MAX_CHARACTERS + 1).decode()
    except (binascii.Error, zlib.error, UnicodeDecodeError, ValueError) as error:
        raise Unreadable("that packed text is damaged; copy the whole link again") from error
    if reader.unused_data:
        raise Unreadable("that packed text is damaged; copy the whole link again")
    if not reader.eof and len(text) <= MAX_CHARACTERS:
        raise Unreadable("that packed text is cut off; copy the whole link again")
    return _bounded_text(text)


def is_whole(text: str) -> bool:
    """Is every character whole? A lone surrogate is a half, which no file, URL or widget takes."""
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def _bounded_text(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"a text may have {MAX_CHARACTERS:,} characters; load a longer one from a file")
    if not is_whole(text):
        raise Unreadable("that text holds half a character; copy the whole link again")
    return text


def _named(key: str, name: str | None) -> str:
    return name or key.replace(" ", "-").replace("_", "-").lower()


def _integer(text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 18):
        raise Unreadable("a whole number is needed")
    return int(text)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise Unreadable("a finite number is needed")
    return number


def _bounded(number: Any, low: float | None, high: float | None) -> Any:
    if (low is not None and number < low) or (high is not None and number > high):
        least, most = ("any" if bound is None else f"{bound:g}" for bound in (low, high))
        raise Unreadable(f"it may be {least} to {most}")
    return number


def _one_of(options: Sequence[str], text: str) -> str:
    if text not in options:
        raise Unreadable(f"it is one of {_listed(options)}")
    return text


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _listed(options: Sequence[Any]) -> str:
    shown = ", ".join(map(str, options[:8]))
    return f"{shown} and {len(options) - 8} more" if len(options) > 8 else shown


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
