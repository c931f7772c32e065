"""A tokenised document, as labels read it: tokens, their text, the words and sentences that they stand in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from probes.corpora.corpus import Document

Ids = NDArray[np.int64]

WORD = re.compile(r"\w+(?:['’\-.]\w+)*|[^\w\s]")
"""A word is letters and digits, joined by single apostrophes, hyphens, points; any other sign is a word of its own."""
SENTENCE_END = re.compile(r"""[.!?…]+["'”’)\]]*(?=\s|$)|\n""")
"""A sentence ends at . ! ? or … before a space, and at a line's end. Abbreviations are not known."""
BANDS = ("very common", "common", "medium", "rare", "very rare")
FREQUENT = 32


class CorpusCounts:
    """How often each token id stands in the whole corpus, [d_vocab]."""

    def __init__(self, counts: Ids):
        self.counts = counts

    @cached_property
    def band(self) -> Ids:
        """Of each id the band of BANDS: ids in the order of their counts, each fifth of all tokens a band."""
        order = np.argsort(-self.counts, kind="stable")
        ordered = self.counts[order]
        middle = (np.cumsum(ordered) - ordered / 2) / max(1, ordered.sum())
        bands = np.empty(len(order), np.int64)
        bands[order] = np.minimum((middle * len(BANDS)).astype(np.int64), len(BANDS) - 1)
        return bands

    @cached_property
    def frequent(self) -> set[int]:
        """The FREQUENT ids that stand most often."""
        order = np.argsort(-self.counts, kind="stable")[:FREQUENT]
        return {int(one) for one in order if self.counts[one]}


@dataclass(frozen=True)
class Sample:
    """One document of T tokens.

    ids: [T]. texts: each token's text, [T]. offsets: characters of the text that each holds, [T, 2]; None without a
    text. pieces: of each token, the number of the stretch of the document that the model reads at a time, [T]. counts:
    of the corpus, where a label needs them.
    """

    document: Document
    ids: Ids
    texts: list[str]
    offsets: Ids | None
    pieces: Ids
    counts: CorpusCounts | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def text(self) -> str:
        return self.document.text or ""

    @cached_property
    def anchors(self) -> Ids:
        """The first character of each token that is no space, or its first; [T]."""
        assert self.offsets is not None
        text = self.text
        return np.array([_first_sign(text, start, end) for start, end in self.offsets.tolist()], np.int64)

    @cached_property
    def words(self) -> Ids:
        """Start and end of every word of the text, [word, 2]."""
        return spans(WORD, self.text)

    @cached_property
    def word_of(self) -> Ids:
        """Number of the word in which each token's first character stands; -1 = in none; [T]."""
        return inside(self.anchors, self.words)

    @cached_property
    def sentence_of(self) -> Ids:
        """Number of the sentence of each token, [T]: how many sentences ended at or before its first character."""
        ends = spans(SENTENCE_END, self.text)[:, 1]
        return np.searchsorted(ends, self.anchors, side="right")

    @cached_property
    def word_texts(self) -> list[str]:
        """The word that each token stands in; its own text where it stands in none; [T]."""
        words = [self.text[start:end] for start, end in self.words.tolist()]
        return [own if word < 0 else words[word] for own, word in zip(self.texts, self.word_of.tolist(), strict=True)]


def _first_sign(text: str, start: int, end: int) -> int:
    for place in range(start, end):
        if not text[place].isspace():
            return place
    return start


def spans(pattern: re.Pattern[str], text: str) -> Ids:
    return np.array([match.span() for match in pattern.finditer(text)], np.int64).reshape(-1, 2)


def inside(places: Ids, found: Ids) -> Ids:
    """The number of the span (sorted, disjoint) that holds each place; -1 = none."""
    if not len(found):
        return np.full(len(places), -1, np.int64)
    number = np.searchsorted(found[:, 0], places, side="right") - 1
    return np.where((number >= 0) & (places < found[number, 1]), number, -1)


def since_change(groups: Ids) -> Ids:
    """How many earlier tokens of the same run of equal values each has, [T]."""
    places = np.arange(len(groups))
    first = np.concatenate([[True], groups[1:] != groups[:-1]]) if len(groups) else np.empty(0, bool)
    return places - np.maximum.accumulate(np.where(first, places, 0))
