"""Answers a line of the in-context tasks from its plain meaning: its own reading of the text, the lists' own facts."""

from __future__ import annotations

import re

from probes.tasks import words

FACTS = (
    r"(?P<who>\S+) has (?:an? )?(?P<what>.+)",
    r"The (?P<what>.+) (?:is|are) (?P<who>\S+)'s",
    r"(?P<who>\S+) likes (?P<what>.+)",
    r"(?P<what>.+) attracts (?P<who>\S+)",
    r"(?P<who>\S+) arrived (?:at|on|in) (?P<what>.+)",
    r"(?:At|On|In) (?P<what>.+) arrived (?P<who>\S+)",
    r"(?P<who>\S+) is (?P<what>\S+)",
    r"(?P<what>\S+) (?P<who>\S+)",
)
PERSON_LINE = re.compile(r"< (?P<facts>.+) >\. (?P<question>.*)")
ODD_LINE = re.compile(r"There are (?P<items>.+?)\. Which is (?:not .+|different)\? (?P<link>.*)")
VERB = (
    r"(?P<verb>does not (?:have|own|possess|want to go to|want to visit|long for|yearn for)|is not|"
    r"did not (?:arrive|appear|show up)|has|owns|possesses|wants to go to|wants to visit|longs for|yearns for|"
    r"is|arrived|appeared|showed up) "
)
LINKS = {
    "a kind of": "kind",
    "the city in": "country",
    "the thing that can": "use",
    "the opposite of": "opposite",
    "just before": "next",
    "just after": "previous",
}


def solve(line: str) -> str | None:
    """The answer that belongs at the end of a line, or None where the line has not exactly one."""
    line = line.rstrip()
    if odd := ODD_LINE.fullmatch(line if line.endswith("?") is False else line + " "):
        return _solve_odd(odd)
    if match := PERSON_LINE.fullmatch(line):
        facts = [_fact(sentence) for sentence in re.split(r"(?<=[^D])\. ?", match["facts"]) if sentence]
        return None if None in facts else _solve_persons(facts, match["question"])
    return None


def _solve_odd(odd: re.Match) -> str | None:
    items = [re.sub(r"^an? ", "", item) for item in re.split(r", (?!D\.C)", odd["items"])]
    single = [item for item in items if items.count(item) == 1]
    return _label(single[0], _meaning(odd["link"])) if len(items) == 3 and len(single) == 1 else None


def _fact(sentence: str) -> tuple[str, str] | None:
    for pattern in FACTS:
        if match := re.fullmatch(pattern, sentence):
            what = match["what"]
            return match["who"], what.lower() if what.lower() in OPPOSITES else what
    return None


def _solve_persons(facts: list[tuple[str, str]], question: str) -> str | None:
    if match := re.fullmatch(rf"Who {VERB}(?P<asked>.+)\?", question):
        meaning = _meaning(match["asked"])
        asked = re.sub(rf"^{_link_pattern(meaning)}", "", match["asked"])
        having = {who for who, what in facts if _label(what, meaning) == asked}
        everyone = {who for who, _ in facts}
        return _only(everyone - having if "not" in match["verb"] else having)
    if match := re.fullmatch(rf"(?P<who>\S+) {VERB}(?P<link>.*)", question + " "):
        meaning = _meaning(match["link"])
        own = {_label(what, meaning) for who, what in facts if who == match["who"]}
        every = {_label(what, meaning) for _, what in facts}
        return _only(every - own if "not" in match["verb"] else own)
    return None


def _only(found: set) -> str | None:
    return next(iter(found)) if len(found) == 1 else None


def _meaning(text: str) -> str:
    return next((meaning for link, meaning in LINKS.items() if link in text.lower()), "itself")


def _link_pattern(meaning: str) -> str:
    if meaning in ("next", "previous"):
        return r"the \S+ just (?:before|after) "
    return {value: key for key, value in LINKS.items()}.get(meaning, "") + (" " if meaning != "itself" else "")


def _by_member(lists: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {member.lstrip("+~"): label for label, members in lists.items() for member in members}


KINDS, USES, COUNTRIES = _by_member(words.KINDS), _by_member(words.USES), _by_member(words.CITIES)
OPPOSITES: dict[str, str] = {}
for theme in words.ANTONYM_THEMES:
    for one, other in theme:
        OPPOSITES.setdefault(one, other)
        OPPOSITES.setdefault(other, one)


def _label(word: str, meaning: str) -> str | None:
    if meaning == "itself":
        return word
    if meaning in ("next", "previous"):
        series = next((series for series in words.TIMES.values() if word in series), ())
        place = series.index(word) + (1 if meaning == "next" else -1) if series else -1
        return series[place] if 0 <= place < len(series) else None
    return {"kind": KINDS, "use": USES, "country": COUNTRIES, "opposite": OPPOSITES}[meaning].get(word)
