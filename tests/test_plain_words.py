"""JSON that a stranger wrote: what is wrong with it in a few words, however much of it there is."""

import json

import pytest

from model.plain_words import parse_json, quoted


def test_a_key_that_stands_twice_is_named_among_many():
    """Counting each of 100,000 keys anew would take minutes."""
    many = ", ".join(f'"{n}": {n}' for n in range(100_000))
    assert parse_json("{" + many + "}") == {str(n): n for n in range(100_000)}
    with pytest.raises(ValueError, match="the key '99999' stands there twice"):
        parse_json("{" + many + ', "99999": 1}')


def test_a_long_key_is_shortened():
    with pytest.raises(ValueError, match=r"the key 'kk+ \.\.\. k+' stands there twice") as error:
        parse_json("{" + ", ".join([json.dumps("k" * 10_000) + ": 1"] * 2) + "}")
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "line 1, column 2"),
        (b"\xff", "not UTF-8 at byte 0"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "digits"),
    ],
)
def test_what_is_wrong_is_said(text, said):
    with pytest.raises(ValueError, match=said):
        parse_json(text)


def test_a_value_is_written_as_it_is_or_without_its_middle():
    assert quoted({"a": "\n"}) == r"{'a': '\n'}"
    assert 290 < len(quoted({"a": "x" * 10_000})) <= 300
