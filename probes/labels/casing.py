"""How a word is written, and which sign a sign is."""

from __future__ import annotations

from functools import lru_cache

from probes.labels.label import Label

SIGNS = {
    "sentence end": ".!?…", "comma": ",", "colon": ":;", "bracket": "()[]{}<>", "quote": "\"'“”‘’«»`", "dash": "-–—_",
}  # fmt: skip
_CLASS_OF = {sign: name for name, signs in SIGNS.items() for sign in signs}


@lru_cache(2**16)
def casing_of(word: str) -> str:
    """lower, Capitalised, UPPER (two or more letters), mIxed, or none (no cased letter)."""
    letters = [sign for sign in word if sign.isupper() or sign.islower()]
    if not letters:
        return "none"
    if all(letter.islower() for letter in letters):
        return "lower"
    if all(letter.islower() for letter in letters[1:]):
        return "Capitalised"
    return "UPPER" if all(letter.isupper() for letter in letters) else "mIxed"


@lru_cache(2**16)
def punctuation_of(text: str) -> str:
    """The class of a token's first sign; "none" for words, numbers and space, "other" for a sign of no class."""
    bare = text.strip()
    if not bare or any(sign.isalnum() for sign in bare):
        return "none"
    return _CLASS_OF.get(bare[0], "other")


CASING = Label(
    name="casing",
    definition="of the word that the token stands in: lower, Capitalised, UPPER (two or more letters), mIxed, or none",
    values=lambda sample: [casing_of(word) for word in sample.word_texts],
    needs_text=True,
)
PUNCTUATION = Label(
    name="punctuation",
    definition="class of a sign: "
    + ", ".join(f"{name} {signs}" for name, signs in SIGNS.items())
    + ", other; none: words",
    values=lambda sample: [punctuation_of(text) for text in sample.texts],
)
