"""Study: everything that decides what a probing study asks and of what, read from a small YAML file."""

from __future__ import annotations

import dataclasses
import glob
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from model.plain_words import one_line, quoted
from model.training.fields import refuse_unknown, typed
from probes.estimators import known_probes
from probes.harvest import Keep
from probes.probing import REFERENCES, SCORES

ANALYSES = {
    "probing": "learned probes of every feature for every label, against every reference",
    "dynamic_share": "how much of each token's mixing depends on the tokens, by class of every label",
}
"""What can be done with what is harvested."""
NAMES = ("data", "features", "labels", "numbers", "probes", "references", "analyses")
LISTS: dict[str, type] = {**dict.fromkeys(NAMES, str), "seeds": int}
"""Fields that are lists, and of what."""
KINDS = {str: "names", int: "whole numbers"}
RANDOM = "-random"
"""End of the name of what is kept of a model with random weights."""


@dataclass(frozen=True, kw_only=True)
class Study:
    """The fields of a study's file.

    title, question: in words, for the report. models: name -> a bundled model, checkpoint directory or hub id; in the
    file a list too, whose names may be patterns of directories (runs/*/checkpoints/step-*). data: as harvest --data
    takes it. keep: fields of probes.harvest.Keep. context: tokens read at a time; None = the model's. split_text:
    what is a document in a text file. features: as harvest --features takes them. labels: columns of the token table.
    numbers: those of them that are read as numbers. drop_rare: classes in fewer documents than folds have no label,
    instead of an error. probes, references, score: by name; references None = all. score: what the words and figures
    speak of. random_init: harvest each model with random weights too, as a reference. seeds: of folds, fakes and
    resamples. analyses: of ANALYSES.
    """

    title: str
    models: Mapping[str, str]
    data: tuple[str, ...]
    features: tuple[str, ...]
    labels: tuple[str, ...]
    question: str = ""
    keep: Mapping[str, Any] = field(default_factory=dict)
    context: int | None = None
    split_text: str = "file"
    numbers: tuple[str, ...] = ()
    drop_rare: bool = False
    probes: tuple[str, ...] = ("linear",)
    references: tuple[str, ...] | None = None
    score: str = "balanced_accuracy"
    random_init: bool = True
    folds: int = 5
    confidence: float = 0.95
    seeds: tuple[int, ...] = (0,)
    analyses: tuple[str, ...] = ("probing",)

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name in ("title", "question", "split_text", "score", "context", "folds", "confidence", "drop_rare",
                     "random_init"):  # fmt: skip
            object.__setattr__(self, name, typed(name, getattr(self, name), hints[name]))
        for name, kind in LISTS.items():
            object.__setattr__(self, name, _listed(name, getattr(self, name), kind))
        object.__setattr__(self, "models", _models(self.models))
        self._check()

    def _check(self) -> None:
        """Raise what there is to raise before any model is loaded."""
        for name in LISTS:
            if name != "numbers" and getattr(self, name) == ():
                raise ValueError(f"{name} is empty. Name at least one.")
        _ = self.kept
        known_probes(self.probes)
        _known("analyses", self.analyses, ANALYSES)
        _known("score", (self.score,), SCORES)
        _known("references", self.references or (), REFERENCES)
        missing = [name for name in self.numbers if name not in self.labels]
        if missing:
            raise ValueError(f"numbers names {quoted(missing[0])}, which is not among labels. Add it there.")
        if self.folds < 3:
            raise ValueError(f"folds must be at least 3, got {self.folds}.")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {self.confidence}.")

    @property
    def kept(self) -> Keep:
        """Which tokens are harvested."""
        if not isinstance(self.keep, Mapping):
            raise ValueError(f"keep must be a group of fields, such as {{every: 4}}, got {quoted(self.keep)}.")
        hints = get_type_hints(Keep)
        refuse_unknown("keep", self.keep, hints)
        plain = {name: typed(f"keep.{name}", self.keep[name], hints[name]) for name in self.keep if name != "values"}
        return Keep(**plain, values=tuple(map(str, _listed("keep.values", self.keep.get("values", ())) or ())))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], where: str = "The study") -> Study:
        """From the keys of a file.

        Raises:
            ValueError: an unknown or a missing key, or a value that is none; the message names the place.
        """
        refuse_unknown(where, fields, (one.name for one in dataclasses.fields(cls)))
        needed = [one.name for one in dataclasses.fields(cls) if _is_needed(one)]
        if missing := [name for name in needed if name not in fields]:
            raise ValueError(f"{where} lacks {', '.join(missing)}. Add what is missing.")
        try:
            return cls(**fields)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    @classmethod
    def read(cls, path: str | Path) -> Study:
        """From a YAML file."""
        path = Path(path).expanduser()
        try:
            fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise ValueError(f"{path} cannot be read as YAML: {one_line(error)}.") from error
        if not isinstance(fields, dict):
            raise ValueError(f"{path} must hold the fields of a study, got {type(fields).__name__}.")
        return cls.from_dict(fields, str(path))

    def to_dict(self) -> dict[str, Any]:
        """As a file can hold it."""
        found = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _is_needed(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _listed(name: str, given: Any, kind: type | None = None) -> tuple[Any, ...] | None:
    """A list without repeats, or one value for a list of one.

    Args:
        kind: of every entry; None = any.
    """
    if given is None and name == "references":
        return None
    entries = [given] if isinstance(given, str | int) else given
    if not isinstance(entries, list | tuple):
        raise ValueError(f"{name} must be a list, got {quoted(given)}.")
    for entry in entries:
        if kind is not None and (not isinstance(entry, kind) or isinstance(entry, bool)):
            hint = " YAML reads yes, no, on and off as true and false: put them in quotes." if kind is str else ""
            raise ValueError(f"{name} must be a list of {KINDS[kind]}, and holds {quoted(entry)}.{hint}")
    if wrong := [entry for entry in entries if not isinstance(entry, str | int | float)]:
        raise ValueError(f"{name} must be a list of single values, and holds {quoted(wrong[0])}.")
    return tuple(dict.fromkeys(entries))


def _models(given: Any) -> dict[str, str]:
    """Name -> where it is; patterns become the directories that they match, named by the ends of their paths."""
    if isinstance(given, Mapping):
        found = {str(name): str(source) for name, source in given.items()}
    else:
        found = _found([str(source) for source in _listed("models", given) or ()])
    if not found:
        raise ValueError("models is empty. Name at least one.")
    files = [file_name(name) + end for name in found for end in ("", RANDOM)]
    if twice := [name for name, times in Counter(files).items() if times > 1]:
        raise ValueError(f"models: two of them would keep what they have in {twice[0]}. Give them other names.")
    return found


def _found(sources: Sequence[str]) -> dict[str, str]:
    """What sources and patterns mean, by the last part of a path, or by the whole of it where two end alike."""
    pairs: list[tuple[str, str]] = []
    for source in sources:
        matches = sorted(glob.glob(source)) if glob.has_magic(source) else []
        if glob.has_magic(source) and not matches:
            raise ValueError(f"models: no directory matches {quoted(source)}. Run where it lies, or name another.")
        pairs += [(Path(match).name, match) for match in matches] or [(source, source)]
    times = Counter(name for name, _ in pairs)
    return {name if times[name] == 1 else path: path for name, path in pairs}


def file_name(name: str) -> str:
    """A model's name as part of a file's."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


def _known(key: str, names: tuple[str, ...], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{key} has an unknown {quoted(name)}. Choose from {', '.join(known)}.")
