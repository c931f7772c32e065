"""What a token is: a word, a piece of one, a number, a sign, space; and which token, if it is a frequent one."""

from __future__ import annotations

from functools import lru_cache

from probes.labels.label import Label
from probes.labels.sample import FREQUENT, Sample, since_change

OTHER = "other"


@lru_cache(2**17)
def shape_of(text: str) -> str:
    """Class of a token's own text: word, number, punctuation, symbol or space."""
    bare = text.strip()
    if not bare:
        return "space"
    if any(sign.isalpha() for sign in bare):
        return "word"
    if any(sign.isnumeric() for sign in bare):
        return "number"
    # bytes of a character that several tokens share are shown as the replacement character
    return "symbol" if any(ord(sign) > 0x2FFF or sign in "�$+<=>^`|~@#%&*_\\/" for sign in bare) else "punctuation"


def _token_class(sample: Sample) -> list[str]:
    classes = [shape_of(text) for text in sample.texts]
    if sample.offsets is None:
        return classes
    within = since_change(sample.word_of)
    return [
        "word piece" if shape == "word" and word >= 0 and place > 0 else shape
        for shape, word, place in zip(classes, sample.word_of, within, strict=True)
    ]


def _token_identity(sample: Sample) -> list[str]:
    assert sample.counts is not None
    frequent = sample.counts.frequent
    return [text if token in frequent else OTHER for token, text in zip(sample.ids.tolist(), sample.texts, strict=True)]


TOKEN_CLASS = Label(
    name="token_class",
    definition="word (begins a word), word piece (goes on with one), number, punctuation, symbol or space, by its text",
    values=_token_class,
)
TOKEN_IDENTITY = Label(
    name="token_identity",
    definition=f"the token's text if it is one of the {FREQUENT} most frequent of the corpus, else {OTHER!r}",
    values=_token_identity,
    needs_counts=True,
)
