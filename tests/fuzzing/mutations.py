"""Ways to harm a file: bytes that are cut, flipped and moved, JSON whose values, keys and structure are strange."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]
Files = dict[str, bytes]
"""Name -> content of the files of a folder."""
Path = tuple[str | int, ...]

DEEP = "[" * 100_000
HUGE_WHOLE = (2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400)
STRANGE_TEXTS = (
    "", " ", "\0", "..", "../..", "/etc/passwd", "C:\\x", "%s%n{0}", "\u202e\U0001f600", "\ud800", "nan",
    "1e999", "x" * 5000,
    "<script>alert(1)</script>", "a\nb", "__class__", "os:system", "float32", "bfloat16", "int8", "float8_e4m3fn",
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-4, 70), st.sampled_from(HUGE_WHOLE),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 0.5, -1.5, 1e308, 5e-324, 1e9]),
    st.sampled_from(STRANGE_TEXTS), st.text(max_size=8),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


# -- bytes ---------------------------------------------------------------------------------------------


def harm_bytes(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """One edit of a file's bytes, and what it was."""
    kind = draw(st.sampled_from(sorted(_BYTES)))
    harmed = _BYTES[kind](draw, content)
    return harmed, kind


def _place(draw: Draw, content: bytes) -> int:
    """Anywhere, its first bytes (where headers stand) and its last as often as all others together."""
    last = max(0, len(content) - 1)
    ends = st.integers(0, min(63, last)) | st.integers(max(0, last - 63), last)
    return draw(st.integers(0, last) | ends)


def _truncated(draw: Draw, content: bytes) -> bytes:
    return content[: _place(draw, content)]


def _flipped(draw: Draw, content: bytes) -> bytes:
    harmed = bytearray(content)
    for _ in range(draw(st.integers(1, 12)) if content else 0):
        harmed[_place(draw, content)] ^= 1 << draw(st.integers(0, 7))
    return bytes(harmed)


def _overwritten(draw: Draw, content: bytes) -> bytes:
    at, new = _place(draw, content), draw(st.binary(min_size=1, max_size=24))
    return content[:at] + new + content[at + len(new) :]


def _inserted(draw: Draw, content: bytes) -> bytes:
    at = _place(draw, content)
    return content[:at] + draw(st.binary(min_size=1, max_size=24)) + content[at:]


def _cut_out(draw: Draw, content: bytes) -> bytes:
    at = _place(draw, content)
    return content[:at] + content[at + draw(st.integers(1, 200)) :]


def _repeated(draw: Draw, content: bytes) -> bytes:
    at = _place(draw, content)
    piece = content[at : at + draw(st.integers(1, 400))]
    return content[:at] + piece * draw(st.integers(2, 4)) + content[at:]


def _replaced(draw: Draw, content: bytes) -> bytes:
    return draw(
        st.sampled_from(
            [b"", b"\0" * 64, b"\xff" * 64, b"{}", b"[]", b"null", b"\x80\x04.", b"PK\x03\x04", DEEP.encode()]
        )
        | st.binary(max_size=120)
    )


_BYTES: dict[str, Callable[[Draw, bytes], bytes]] = {
    "bits flipped": _flipped, "bytes cut out": _cut_out, "bytes inserted": _inserted, "bytes overwritten": _overwritten,
    "bytes repeated": _repeated, "replaced": _replaced, "truncated": _truncated,
}  # fmt: skip


# -- JSON ----------------------------------------------------------------------------------------------


def harm_json(draw: Draw, tree: Any, values: st.SearchStrategy[Any] = VALUES) -> tuple[bytes, str]:
    """A JSON document with one to three edits of its tree, or of its text, and what they were.

    Args:
        tree: changed in place. values: what a value may become.
    """
    told = [_edit(draw, tree, values) for _ in range(draw(st.integers(1, 3)))]
    text = json.dumps(tree)
    if draw(st.integers(0, 9)) == 0:
        text, kind = _harmed_text(draw, text)
        told.append(kind)
    return text.encode("utf-8", "surrogatepass"), ", ".join(told)


def _edit(draw: Draw, tree: Any, values: st.SearchStrategy[Any]) -> str:
    paths = list(_paths(tree))
    if not paths:
        return "nothing"
    path = draw(st.sampled_from(paths))
    *above, last = path
    holder = tree
    for step in above:
        holder = holder[step]
    kind = draw(st.sampled_from(["set", "set", "set", "remove", "rename", "add", "swap", "wrap"]))
    where = "/".join(map(str, path))
    if kind == "remove":
        del holder[last]
    elif kind == "rename" and isinstance(holder, dict):
        holder[draw(st.text(max_size=6) | st.sampled_from([str(last).upper(), f"{last} "]))] = holder.pop(last)
    elif kind == "add" and isinstance(holder, dict):
        holder[draw(st.text(max_size=6) | st.sampled_from(STRANGE_TEXTS))] = draw(values)
    elif kind == "swap":
        other = draw(st.sampled_from(paths))
        holder[last] = json.loads(json.dumps(_at(tree, other)))
    elif kind == "wrap":
        holder[last] = [holder[last]]
    else:
        kind, holder[last] = "set", draw(values)
        return f"{where} set to {_short(holder[last])}"
    return f"{where}: {kind}"


def _harmed_text(draw: Draw, text: str) -> tuple[str, str]:
    kind = draw(st.sampled_from(["duplicate keys", "deep nesting", "a long number", "single quotes", "NaN"]))
    first = text.find(":") + 1
    if kind == "duplicate keys" and text.startswith("{"):
        return "{" + text[1:-1] + "," + text[1:-1] + "}", kind
    if kind == "deep nesting":
        return text[:first] + DEEP + text[first:], kind
    if kind == "a long number":
        return text[:first] + "9" * 5000 + "," + text[first:], kind
    return (text.replace('"', "'"), kind) if kind == "single quotes" else (text[:first] + "NaN" + text[first:], kind)


def _paths(tree: Any, above: Path = ()) -> Iterator[Path]:
    items: Sequence[tuple[str | int, Any]] = ()
    if isinstance(tree, dict):
        items = list(tree.items())
    elif isinstance(tree, list):
        items = list(enumerate(tree))[:40]
    for key, value in items:
        yield (*above, key)
        yield from _paths(value, (*above, key))


def _at(tree: Any, path: Path) -> Any:
    for step in path:
        try:
            tree = tree[step]
        except (KeyError, IndexError, TypeError):
            return None
    return tree


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_of_files(draw: Draw, files: Files, names: Sequence[str] | None = None) -> str:
    """The name of the file to harm."""
    return draw(st.sampled_from(sorted(files if names is None else names)))
