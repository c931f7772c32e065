"""pytorch_model.bin: a zip archive around a pickle, and so a bomb or a programme."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from hypothesis import strategies as st

from tests.fuzzing.checkpoint_files import ERRORS, directories, load
from tests.fuzzing.component import Component
from tests.fuzzing.judge import MARKER
from tests.fuzzing.mutations import Draw, Files, harm_bytes, one_of_files

FILE = "pytorch_model.bin"
BOMB = 2**28
"""Bytes that a bomb unpacks to, of which the file holds a thousandth."""


def component() -> Component:
    return Component("torch_file", valid, harm, load, ERRORS)


def valid() -> dict[str, Files]:
    found = directories("torch") | _with_index()
    for files in directories("torch").values():
        for kind in ("data/0", "data.pkl"):
            _deflated(kind, next(content for name, content in sorted(files.items()) if name.endswith(".bin")))
    return found


@cache
def _deflated(end: str, content: bytes) -> bytes:
    """A file with one record that unpacks to BOMB bytes; made once, as it takes seconds."""
    bomb = bytes(BOMB) if end == "data/0" else b"\x80\x02" + b"]" * BOMB + b"."
    return _archive(
        [(name, bomb if name.endswith(end) else held) for name, held in _records(content)], zipfile.ZIP_DEFLATED
    )


def _with_index() -> dict[str, Files]:
    return {f"{name} in shards": files for name, files in directories("torch shards").items()}


def harm(draw: Draw, files: Files) -> str:
    shards = sorted(name for name in files if name.endswith(".bin"))
    kind = draw(st.sampled_from(["bytes", "bytes", "record", "record", "pickle", "payload", "bomb", "objects"]))
    kind = "payload" if kind == "bomb" and len(shards) > 1 else kind
    name = shards[0] if kind == "bomb" else one_of_files(draw, files, shards)
    files[name], told = {
        "bytes": harm_bytes, "record": _harmed_record, "pickle": _harmed_pickle, "payload": _payload, "bomb": _bomb,
        "objects": _objects,
    }[kind](draw, files[name])  # fmt: skip
    return f"{name}: {kind}: {told}"


# -- the archive -----------------------------------------------------------------------------------------


def _harmed_record(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """One record of the archive cut, flipped, doubled, left out, renamed or compressed."""
    records = _records(content)
    name = draw(st.sampled_from([name for name, _ in records]))
    at = [one for one, _ in records].index(name)
    kind = draw(st.sampled_from(["content", "double", "remove", "rename", "compress"]))
    if kind == "content":
        records[at] = (name, harm_bytes(draw, records[at][1])[0])
    elif kind == "double":
        records.append((name, records[draw(st.integers(0, len(records) - 1))][1]))
    elif kind == "remove":
        del records[at]
    elif kind == "rename":
        records[at] = (
            draw(st.sampled_from(["../x", "/etc/x", "", "data.pkl", "x/data.pkl", "a" * 300])),
            records[at][1],
        )
    return _archive(records, zipfile.ZIP_DEFLATED if kind == "compress" else zipfile.ZIP_STORED), f"{name}: {kind}"


def _harmed_pickle(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """data.pkl with opcodes that load names, call, nest or name tensors that are not there."""
    records = dict(_records(content))
    name = next(name for name in records if name.endswith("data.pkl"))
    told = []
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(2, len(records[name]) - 1))
        opcode = draw(st.sampled_from(_OPCODES))
        cut = draw(st.sampled_from([0, 0, 1, 4]))
        records[name] = records[name][:at] + opcode + records[name][at + cut :]
        told.append(repr(opcode[:16]))
    return _archive(list(records.items())), " ".join(told)


_OPCODES = (
    b"cos\nsystem\n", b"cposix\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\nexec\n", b"ctorch\nload\n",
    b"ctorch.hub\nload\n", b"cnumpy\nload\n", b"R", b"i", b"o", b"b", b"\x81", b"\x92", b"Q", b"P1\n", b"(",
    b")", b"}", b"]",
    b"0", b".", b"\x8f", b"N", b"K\xff", b"\x8a\xff" + b"\xff" * 255, b"\x8b" + struct.pack("<i", 2**30),
    b"X" + struct.pack("<I", 2**31 - 1), b"\x8d" + struct.pack("<Q", 2**62), b"j" + struct.pack("<I", 2**31),
    b"r\xff\xff\xff\x7f",
    b"h\xff", b"2" * 64, b"(" * 5000, b"]" * 5000,
)  # fmt: skip


def _bomb(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """Few bytes that unpack to many: compressed records, shared storages, strides of 0, lists of lists."""
    kind = draw(st.sampled_from(["deflated", "deflated pickle", "expanded", "shared", "doubling"]))
    if kind.startswith("deflated"):
        return _deflated("data/0" if kind == "deflated" else "data.pkl", content), kind
    if kind == "doubling":
        return pickle.dumps(_doubled(40), 2), kind
    state: Any = torch.load(io.BytesIO(content), weights_only=True)
    name = draw(st.sampled_from(sorted(state)))
    if kind == "expanded":
        state[name] = torch.zeros(1).expand(2 ** draw(st.integers(10, 40)), 2)
    else:
        many = torch.zeros(2**18)
        state |= {f"{name}.{number}": many.view(2, -1) for number in range(draw(st.integers(1, 2000)))}
    return _saved(state), f"{kind} {name}"


def _doubled(depth: int) -> list:
    listed: list = []
    for _ in range(depth):
        listed = [listed, listed]
    return listed


# -- what is pickled -------------------------------------------------------------------------------------


class Payload:
    """Unpickled by a reader that trusts the file, it makes the marker."""

    def __init__(self, call: tuple[Any, tuple]):
        self.call = call

    def __reduce__(self) -> tuple[Any, tuple]:
        return self.call


def _payload(draw: Draw, content: bytes) -> tuple[bytes, str]:
    folder = os.environ.get(MARKER, "/nonexistent")
    code = f"open({os.path.join(folder, MARKER)!r}, 'w').close()"
    kind = draw(st.sampled_from(["exec", "eval", "system", "mkdir", "torch.load", "import"]))
    payload = Payload(
        {
            "exec": (exec, (code,)), "eval": (eval, (code,)), "system": (os.system, (f"touch {folder}/{MARKER}",)),
            "mkdir": (os.mkdir, (f"{folder}/{MARKER}",)), "torch.load": (torch.load, (f"{folder}/{MARKER}",)),
            "import": (__import__, ("os",)),
        }[kind]
    )  # fmt: skip
    state: Any = torch.load(io.BytesIO(content), weights_only=True)
    where = draw(st.sampled_from(["all", "value", "key", "nested", "attribute"]))
    if where == "all":
        state = payload
    elif where == "value":
        state[draw(st.sampled_from(sorted(state)))] = payload
    elif where == "nested":
        state["more"] = [{"x": (payload,)}]
    elif where == "key":
        state[_Key(payload)] = torch.zeros(1)
    else:
        state = OrderedDict(state)
        state._metadata = payload
    if draw(st.booleans()):
        return _saved(state), f"{kind} in {where}"
    return pickle.dumps(payload, draw(st.integers(0, 5))), f"{kind} bare"


class _Key:
    def __init__(self, payload: Payload):
        self.payload = payload

    def __reduce__(self) -> tuple[Any, tuple]:
        return self.payload.call


_STRANGE: dict[str, Callable[[torch.Tensor], Any]] = {
    "number": lambda _: 3,
    "text": lambda _: "weights",
    "none": lambda _: None,
    "list": lambda tensor: [tensor],
    "nested": lambda tensor: {"x": tensor},
    "sparse": lambda tensor: tensor.to_sparse(),
    "meta": lambda tensor: tensor.to("meta"),
    "int8": lambda tensor: tensor.to(torch.int8),
    "complex": lambda tensor: tensor.to(torch.complex64),
    "bool": lambda tensor: tensor.bool(),
    "transposed": lambda tensor: tensor.mT if tensor.ndim > 1 else tensor[None],
    "empty": lambda tensor: tensor[:0],
    "scalar": lambda tensor: tensor.sum(),
    "nan": lambda tensor: tensor * float("nan"),
    "parameter": lambda tensor: torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point()),
    "quantized": lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
    "float8": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "flipped": lambda tensor: tensor.flip(0)[::1],
    "strided": lambda tensor: tensor.repeat_interleave(2, 0)[::2],
    "conj": lambda tensor: torch.complex(tensor.float(), tensor.float()).conj(),
}
"""What a tensor may become."""


def _objects(draw: Draw, content: bytes) -> tuple[bytes, str]:
    """A state dict with something strange in it: other types, dtypes, layouts, devices, shapes."""
    state: Any = torch.load(io.BytesIO(content), weights_only=True)
    name = draw(st.sampled_from(sorted(state)))
    tensor = state[name]
    kind = draw(st.sampled_from(sorted(_STRANGE)))
    state[draw(st.sampled_from([name, name, 3, ("a",), b"x", "", "x" * 3000, "a\nb"]))] = _STRANGE[kind](tensor)
    wrapped = draw(st.sampled_from([state, state, state, {"state_dict": state}, [state], tuple(state.items()), tensor]))
    return _saved(wrapped), f"{kind} under {str(name)[:40]}"


# -- in and out ------------------------------------------------------------------------------------------


def _records(content: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def _archive(records: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in records:
            archive.writestr(name or "empty", content)
    return file.getvalue()


def _saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
