"""model.safetensors: its bytes, its header (length, shapes, offsets, dtypes, names) and its tensors."""

from __future__ import annotations

import json
import struct

from hypothesis import strategies as st

from tests.fuzzing.checkpoint_files import ERRORS, directories, load
from tests.fuzzing.component import Component
from tests.fuzzing.mutations import HUGE_WHOLE, VALUES, Draw, Files, harm_bytes, harm_json

FILE = "model.safetensors"
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "F4", "f32", "")
LENGTHS = (0, 1, 7, 2**20, 100_000_001, 2**31, 2**40, 2**63, 2**64 - 1)
NUMBERS = st.sampled_from([*HUGE_WHOLE, -1, 0, 1, 2, 3, 12, 31]) | st.integers(-2, 5000)


def component() -> Component:
    return Component("safetensors", lambda: directories("whole"), harm, load, ERRORS)


def harm(draw: Draw, files: Files) -> str:
    kind = draw(st.sampled_from(["bytes", "length", "header", "header", "header", "entry", "entry", "values"]))
    files[FILE], told = {
        "bytes": harm_bytes, "length": _other_length, "header": _harmed_header, "entry": _harmed_entry,
        "values": _values,
    }[kind](draw, files[FILE])  # fmt: skip
    return f"{kind}: {told}"


def parted(content: bytes) -> tuple[dict, bytes]:
    """Header and tensors of a valid file: https://github.com/huggingface/safetensors#format."""
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(header: bytes, tensors: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + tensors


def _other_length(draw: Draw, content: bytes) -> tuple[bytes, str]:
    size = draw(st.sampled_from(LENGTHS) | st.integers(0, 2 * len(content)))
    return struct.pack("<Q", size) + content[8:], f"says {size}"


def _harmed_header(draw: Draw, content: bytes) -> tuple[bytes, str]:
    header, tensors = parted(content)
    harmed, told = harm_json(draw, header, VALUES | st.sampled_from(DTYPES) | NUMBERS)
    return joined(harmed, tensors), told


def _harmed_entry(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """One tensor's dtype, shape or place, as a forger would set it."""
    header, tensors = parted(content)
    name = draw(st.sampled_from(sorted(set(header) - {"__metadata__"})))
    entry = header[name]
    what = draw(st.sampled_from(["dtype", "shape", "offsets", "alias", "padding"]))
    if what == "dtype":
        entry["dtype"] = draw(st.sampled_from(DTYPES))
    elif what == "shape":
        entry["shape"] = draw(st.lists(NUMBERS, max_size=6) | st.permutations(entry["shape"]))
    elif what == "offsets":
        entry["data_offsets"] = draw(st.lists(NUMBERS, max_size=3) | st.just(entry["data_offsets"][::-1]))
    elif what == "alias":
        header[draw(st.sampled_from(sorted(header)) | st.text(max_size=5))] = dict(entry)
    else:
        tensors += b"\0" * draw(st.integers(1, 5000))
    return joined(json.dumps(header).encode(), tensors), f"{name}: {what} {str(entry)[:80]}"


def _values(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """Weights that are NaN, infinite, or of no size: the file is valid, and so is the model."""
    header, tensors = parted(content)
    pattern = draw(
        st.sampled_from([b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\x80\xff", b"\x01\0\0\0", b"\xff\xff\x7f\x7f"])
    )
    if draw(st.booleans()):
        return joined(json.dumps(header).encode(), (pattern * (len(tensors) // 4 + 1))[: len(tensors)]), "all strange"
    at = draw(st.integers(0, max(0, len(tensors) // 4 - 1))) * 4
    return joined(json.dumps(header).encode(), tensors[:at] + pattern + tensors[at + 4 :]), "one strange"
