"""Study: everything that decides what a probing study asks and of what, read from a small YAML file."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from model.training.fields import refuse_unknown, typed
from probes.estimators import known_probes
from probes.harvest import Keep
from probes.probing import REFERENCES, SCORES

ANALYSES = {
    "probing": "learned probes of every feature for every label, against every reference",
    "dynamic_share": "how much of each token's mixing depends on the tokens, by class of every label",
}
"""What can be done with what is harvested."""
LISTS = ("data", "features", "labels", "numbers", "probes", "references", "seeds", "analyses")


@dataclass(frozen=True, kw_only=True)
class Study:
    """The fields of a study's file.

    title, question: in words, for the report. models: name -> a bundled model, checkpoint directory or hub id; in the
    file a list too, whose names may be patterns of directories (runs/*/kept/step-*). data: as harvest --data takes it.
    keep: fields of probes.harvest.Keep. context: tokens read at a time; None = the model's. split_text: what is a
    document in a text file. features: as harvest --features takes them. labels: columns of the token table. numbers:
    those of them that are read as numbers. drop_rare: classes in fewer documents than folds have no label, instead of
    an error. probes, references, score: by name; references None = all. score: what the words and figures speak of.
    random_init: harvest each model with random weights too, as a reference. seeds: of folds, fakes and resamples.
    analyses: of ANALYSES.
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
        for name in LISTS:
            object.__setattr__(self, name, _listed(name, getattr(self, name)))
        object.__setattr__(self, "models", _models(self.models))
        _ = self.kept  # raises what there is to raise
        known_probes(self.probes)
        _known("analyses", self.analyses, ANALYSES)
        _known("score", (self.score,), SCORES)
        _known("references", self.references or (), REFERENCES)
        for name in ("data", "features", "labels", "seeds", "analyses"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty. Name at least one.")
        missing = [name for name in self.numbers if name not in self.labels]
        if missing:
            raise ValueError(f"numbers names {missing[0]!r}, which is not among labels. Add it there.")
        if not all(isinstance(seed, int) and not isinstance(seed, bool) for seed in self.seeds):
            raise ValueError(f"seeds must be whole numbers, got {list(self.seeds)!r}.")

    @property
    def kept(self) -> Keep:
        """Which tokens are harvested."""
        refuse_unknown("keep", self.keep, (one.name for one in dataclasses.fields(Keep)))
        values = self.keep.get("values", ())
        return Keep(**{**self.keep, "values": tuple(map(str, _listed("keep.values", values) or ()))})

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], where: str = "The study") -> Study:
        """From the keys of a file.

        Raises:
            ValueError: an unknown or a missing key, or a value that is none; the message names the place.
        """
        refuse_unknown(where, fields, (one.name for one in dataclasses.fields(cls)))
        needed = [one.name for one in dataclasses.fields(cls) if _is_needed(one)]
        if missing := [name for name in needed if name not in fields]:
            raise ValueError(f"{where} lacks {', '.join(missing)}.")
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
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}.") from error
        if not isinstance(fields, dict):
            raise ValueError(f"{path} must hold the fields of a study, got {type(fields).__name__}.")
        return cls.from_dict(fields, str(path))

    def to_dict(self) -> dict[str, Any]:
        """As a file can hold it."""
        found = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def _is_needed(one: dataclasses.Field[Any]) -> bool:
    return one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING


def _listed(name: str, given: Any) -> tuple[Any, ...] | None:
    """A list, or one value for a list of one."""
    if given is None and name == "references":
        return None
    if isinstance(given, str | int):
        return (given,)
    if not isinstance(given, list | tuple):
        raise ValueError(f"{name} must be a list, got {given!r}.")
    return tuple(given)


def _models(given: Any) -> dict[str, str]:
    """Name -> where it is; patterns become the directories that they match."""
    if isinstance(given, Mapping):
        found = {str(name): str(source) for name, source in given.items()}
    else:
        found = {}
        for source in map(str, _listed("models", given) or ()):
            matches = sorted(glob.glob(source)) if glob.has_magic(source) else [source]
            if not matches:
                raise ValueError(f"models: no directory matches {source!r}.")
            found |= {Path(match).name if match != source else source: match for match in matches}
    if not found:
        raise ValueError("models is empty. Name at least one.")
    return found


def _known(key: str, names: tuple[str, ...], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{key} has an unknown {name!r}. Choose from {', '.join(known)}.")
