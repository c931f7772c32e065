"""What the words mean: the kind of a thing, a city's country, a thing's use, an adjective's opposite, the next time."""

from __future__ import annotations

import re
from collections.abc import Iterable

from probes.tasks import words

_AN = re.compile(r"[aeiou]", re.IGNORECASE)
_SOUNDS_LIKE_YOU = ("uniform",)


def bare(marked: str) -> str:
    """A listed thing without its mark of number: "jeans" from "+jeans"."""
    return marked.lstrip("+~")


def with_article(marked: str) -> str:
    """As one has it: "a fox", "an apple", "jeans"."""
    if marked[0] in "+~":
        return bare(marked)
    return f"an {marked}" if _AN.match(marked) and not marked.startswith(_SOUNDS_LIKE_YOU) else f"a {marked}"


def without_article(phrase: str) -> str:
    return re.sub(r"^an? ", "", phrase)


def _inverse(lists: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {bare(member): label for label, members in lists.items() for member in members}


def _opposites(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Both directions; of a word with two opposites the first one listed."""
    found: dict[str, str] = {}
    for first, second in pairs:
        found.setdefault(first, second)
        found.setdefault(second, first)
    return found


KIND_OF = _inverse(words.KINDS)
USE_OF = _inverse(words.USES)
COUNTRY_OF = _inverse(words.CITIES)
OPPOSITE_OF = _opposites(pair for theme in words.ANTONYM_THEMES for pair in theme)
THEME_OF = {word: str(i) for i, theme in enumerate(words.ANTONYM_THEMES) for pair in theme for word in pair}
UNIT_OF = {when: unit for unit, series in words.TIMES.items() for when in series}
ARE = {bare(thing) for lists in (words.KINDS, words.USES) for things in lists.values() for thing in things
       if thing.startswith("+")}  # fmt: skip
"""Things that take "are"."""


def moved(when: str, step: int) -> str | None:
    """The time `step` places later in its series; None beyond its ends: nothing wraps around."""
    series = words.TIMES[UNIT_OF[when]]
    place = series.index(when) + step
    return series[place] if 0 <= place < len(series) else None
