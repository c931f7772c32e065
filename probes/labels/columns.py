"""A column of the corpus as a label."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from probes.corpora.corpus import Document
from probes.labels.label import CLASS, NUMBER, Label
from probes.labels.sample import Ids, Sample, inside


def column_label(name: str, dtype: str = CLASS) -> Label:
    """The label that a column of the user's is; see Document.columns for the values it may have."""

    def values(sample: Sample) -> list[Any]:
        given = spread(name, sample)
        return given if dtype == NUMBER else [None if value is None else str(value) for value in given]

    return Label(name=name, definition=f"column {name!r} of the corpus", values=values, dtype=dtype)


def column_dtype(name: str, document: Document) -> str | None:
    """NUMBER where all values in a document are numbers, CLASS where one is not, None where there is none."""
    given = column_of(name, document)
    flat = [one[2] if _is_span(one) else one for one in given] if isinstance(given, list) else [given]
    known = [value for value in flat if value is not None]
    if not known:
        return None
    return NUMBER if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known) else CLASS


def column_of(name: str, document: Document) -> Any:
    """A document's value of a column.

    Raises:
        ValueError: it has no such column, with those it has.
    """
    if name not in document.columns:
        # registry imports this file
        from probes.labels.registry import LABELS

        there = ", ".join(document.columns) or "none"
        raise ValueError(
            f"{document.where} has no column {name!r}, and no built-in label has this name. Its columns: {there}. "
            "Built in: "
            f"{', '.join(LABELS)}."
        )
    return document.columns[name]


def spread(name: str, sample: Sample) -> list[Any]:
    """One value a token.

    Raises:
        ValueError: a list that fits neither the words nor the characters of the text.
    """
    given = column_of(name, sample.document)
    if not isinstance(given, list):
        return [given] * len(sample)
    if sample.offsets is None:
        return _of_tokens(name, given, sample)
    if given and all(_is_span(one) for one in given):
        ordered = sorted(given, key=lambda span: span[0])
        found = np.array([[start, end] for start, end, _ in ordered], np.int64)
        return _taken([value for _, _, value in ordered], inside(sample.anchors, found))
    words = np.array([match.span() for match in re.finditer(r"\S+", sample.text)], np.int64).reshape(-1, 2)
    if len(words) != len(given):
        raise ValueError(
            f"{sample.document.where} has {len(given)} values in column {name!r} but {len(words)} words between "
            "spaces. Give "
            "one value a word, or [start, end, value] for stretches of characters."
        )
    return _taken(given, inside(sample.anchors, words))


def _of_tokens(name: str, given: list[Any], sample: Sample) -> list[Any]:
    if len(given) != len(sample):
        raise ValueError(
            f"{sample.document.where} has {len(given)} values in column {name!r} but {len(sample)} tokens. Give one a "
            "token."
        )
    return given


def _is_span(one: Any) -> bool:
    return isinstance(one, list | tuple) and len(one) == 3 and all(isinstance(place, int) for place in one[:2])


def _taken(values: Sequence[Any], numbers: Ids) -> list[Any]:
    return [None if number < 0 else values[number] for number in numbers]
