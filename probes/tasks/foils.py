"""What else could have been answered: the candidate that an answer is held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Foil(NamedTuple):
    """A candidate in the answer's place, and its first token."""

    text: str
    token: int


def foil_of(tokenizer: Any, answer_token: int, candidates: Sequence[str]) -> Foil | None:
    """The first candidate on the line whose first token is not the answer's; None where there is none."""
    firsts = (Foil(one, tokenizer.encode(f" {one}", add_special_tokens=False)[0]) for one in candidates)
    return next((foil for foil in firsts if foil.token != answer_token), None)
