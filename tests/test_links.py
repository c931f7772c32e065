"""A page's state survives its URL, and what a stranger's URL says is either used or refused in one sentence."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import links
from workbench.views import Selection

FIELDS = [
    links.text_field("prompt", default="the example"),
    links.integer_field("heads count", default=5, low=1, high=64),
    links.number_field("dose", default=0.5, low=-4, high=4),
    links.flag_field("robust", default=True),
    links.choice_field("kind", ["scores", "pattern"]),
    links.list_field("layers", int, options=range(7)),
    links.list_field("sites", options=["pre", "post"]),
    links.list_field("models"),
    links.places_field("selection", "at", ("layer", "head", "query", "key"), Selection),
    links.window_field("window", "window"),
]


def packed(data: bytes, after: bytes = b"") -> str:
    """A link's text of any bytes, with more behind their end."""
    return links.PACKED + base64.urlsafe_b64encode(zlib.compress(data) + after).decode().rstrip("=")


states = st.fixed_dictionaries(
    {
        "prompt": st.text(max_size=2000),
        "heads count": st.integers(1, 64),
        "dose": st.floats(-4, 4),
        "robust": st.booleans(),
        "kind": st.sampled_from(["scores", "pattern"]),
        "layers": st.lists(st.integers(0, 6)),
        "sites": st.lists(st.sampled_from(["pre", "post"])),
        "models": st.lists(st.text(st.sampled_from("ab\\, [ß"), min_size=1)),
        "selection": st.builds(Selection, *(st.integers(0, 4096),) * 4),
        "window": st.just(((0, 40), (3, 24))),
    }
)


@given(states)
def test_every_state_comes_back_from_its_url(state):
    values, refused = links.read_state(FIELDS, links.write_state(FIELDS, state))
    assert not refused
    assert {field.key: values.get(field.key, field.default) for field in FIELDS} == state


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("demo/dcformer,demo/transformer", ["demo/dcformer", "demo/transformer"]),  # as links without commas ever were
        (r"demo/dcformer [cpu\, bfloat16],b", ["demo/dcformer [cpu, bfloat16]", "b"]),
        (r"C:\models\mine,b", [r"C:\models\mine", "b"]),  # of an old link: before other signs it is itself
        (r"C:\\models\\,b", ["C:\\models\\", "b"]),
    ],
)
def test_names_with_commas_are_told_apart_and_old_links_still_work(said, meant):
    field = links.list_field("models", options=meant)
    assert field.parse(said) == meant
    assert field.parse(field.write(meant)) == meant


def test_what_is_at_its_default_is_not_said():
    assert links.write_state(FIELDS, {field.key: field.default for field in FIELDS}) == {}
    assert links.write_state(FIELDS, {"heads count": 6, "dose": 0.5}) == {"heads-count": "6"}


@pytest.mark.parametrize(
    ("name", "said", "needed"),
    [
        ("heads-count", "many", "a whole number"),
        ("heads-count", "9" * 500, "a whole number"),
        ("heads-count", "65", "1 to 64"),
        ("dose", "nan", "a finite number"),
        ("dose", "1e999", "a finite number"),
        ("robust", "True", "one of no, yes"),
        ("kind", "<script>alert(1)</script>", "one of scores, pattern"),
        ("layers", "1,9", "9 is none of 0, 1"),
        ("layers", "1,,2", "a whole number"),
        ("at", "1.2.3", "4 whole numbers"),
        ("at", "1.2.-3.4", "0 to any"),
        ("window", "0-40", "first-end.first-end"),
        ("window", "5-5.0-3", "first-end.first-end"),
        ("prompt", "~notbase64!", "damaged"),
        ("prompt", "~AAAA", "damaged"),
        ("prompt", links.pack_text("x" * 5000)[:-8], "cut off"),
        ("prompt", "half \ud83d", "half a character"),
        ("prompt", packed("half \ud83d".encode("utf-8", "surrogatepass")), "damaged"),
        ("prompt", packed(b"\xff is no UTF-8"), "damaged"),
        ("prompt", packed(b"a text", b"and more"), "damaged"),
    ],
)
def test_a_wrong_value_is_refused_in_one_sentence(name, said, needed):
    values, refused = links.read_state(FIELDS, {name: said})
    assert values == {}
    assert len(refused) == 1
    assert needed in refused[0]
    assert len(refused[0]) < 300


@given(st.text(st.sampled_from("aß~ \ud83d\udc00"), max_size=400))
def test_half_a_character_is_written_as_a_question_mark(text):
    said = links.write_state(FIELDS, {"prompt": text})
    assert links.fits(said)
    values, refused = links.read_state(FIELDS, said)
    assert not refused
    assert values["prompt"] == text.encode("utf-8", "replace").decode()


def test_a_few_kilobytes_do_not_become_a_gigabyte():
    _, refused = links.read_state(FIELDS, {"prompt": packed(b"a" * (64 << 20))})
    assert "1,048,576 characters" in refused[0]


def test_a_long_prompt_fits_and_a_far_too_long_one_is_told_apart():
    words = " ".join(f"word{number % 97}" for number in range(2000))
    assert links.fits({"prompt": links.pack_text(words)})
    assert not links.fits({"prompt": "".join(chr(0x4E00 + (7 * n) % 20000) for n in range(60_000))})


@given(st.dictionaries(st.sampled_from([field.name for field in FIELDS]), st.text(max_size=60)))
def test_nothing_in_a_url_raises(parameters):
    values, refused = links.read_state(FIELDS, parameters)
    assert len(values) + len(refused) == len(parameters)
