"""Deep links: query parameters as a stranger wrote them, read into the state of a page and written back."""

from __future__ import annotations

import json
import zlib
from base64 import urlsafe_b64encode
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzzing.component import Component
from tests.fuzzing.mutations import HUGE_WHOLE, STRANGE_TEXTS, Draw, Files
from workbench.links import (
    choice_field,
    flag_field,
    integer_field,
    list_field,
    number_field,
    pack_text,
    places_field,
    read_state,
    text_field,
    window_field,
    write_state,
)

FILE = "parameters.json"
FIELDS = (
    text_field("prompt", default="The cat"), integer_field("layer", low=0, high=7), integer_field("free"),
    number_field("amount", low=-1.0, high=4.0), flag_field("twin"), choice_field("model", ["demo/dcformer",
    "demo/transformer"]),
    list_field("layers", int, options=range(4)), list_field("names", str), places_field("head", "head",
    ("layer", "head")),
    window_field("window", "window"),
)  # fmt: skip
VALID = {"prompt": pack_text("long " * 200), "layer": "3", "free": "-5", "amount": "0.5", "twin": "yes",
         "model": "demo/transformer", "layers": "0,3", "names": "a,b", "head": "1.2",
         "window": "0-40.0-24"}  # fmt: skip


def component() -> Component:
    return Component("links", lambda: {"link": {FILE: json.dumps(VALID).encode()}}, harm, read)


def harm(draw: Draw, files: Files) -> str:
    found = json.loads(files[FILE])
    for name in draw(st.lists(st.sampled_from(sorted(VALID)), min_size=1, max_size=4, unique=True)):
        value = draw(st.sampled_from(["text", "strange", "number", "joined", "cut", "packed", "bomb"]))
        found[name] = {
            "text": lambda: draw(st.text(max_size=30)),
            "strange": lambda: draw(st.sampled_from(STRANGE_TEXTS)),
            "number": lambda: str(draw(st.sampled_from(HUGE_WHOLE[:-1]) | st.integers(-9, 9) | st.floats())),
            "joined": lambda name=name: draw(st.sampled_from(["-", ".", ",", "0-",
            "~"])).join([found[name]] * draw(st.integers(1, 300))),
            "cut": lambda name=name: found[name][: draw(st.integers(0, 40))],
            "packed": lambda: "~" + draw(st.text("abcXYZ019-_=+/", max_size=40)),
            "bomb": lambda: draw(st.sampled_from(BOMBS)),
        }[value]()  # fmt: skip
    files[FILE] = json.dumps(found).encode()
    return ", ".join(f"{name}={str(value)[:20]!r}" for name, value in found.items() if VALID[name] != value)[:300]


def _packed(content: bytes) -> str:
    return "~" + urlsafe_b64encode(zlib.compress(content, 9)).decode().rstrip("=")


BOMBS = [_packed(content) for content in (b"\0" * 2**24, "\U0001f600".encode() * 2**21, b"\xff" * 9, b"")]


def read(folder: Path) -> None:
    values, refused = read_state(FIELDS, json.loads((folder / FILE).read_bytes()))
    for said in refused:
        assert "\n" not in said
        assert len(said) < 1000
        assert said.endswith("."), said
    known = {field.key: field.default for field in FIELDS}
    again, none = read_state(FIELDS, write_state(FIELDS, values))
    assert not none
    assert all(again.get(key, known[key]) == value for key, value in values.items()), (values, again, none)
