"""A study small enough to wait for: what a person asks for on a page, as the fields of a study's file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model import list_models
from model.checkpoints.load import read_config
from model.config import DCFormerConfig
from probes.features import KINDS, resolve
from probes.labels.registry import BUILT_IN, DERIVED
from probes.study import Study
from probes.study.cells import place
from probes.study.run import is_finished
from probes.tasks import RULES
from workbench.links import is_whole

PASTED = "pasted.txt"
TASK_LABELS = ("task_role", "task_family", "task_form")
TEXT_LABELS = (*BUILT_IN, *DERIVED)
PROBES = {"linear": 0.4, "ridge": 0.1, "online_code": 0.2, "neighbours": 1.0}
"""Probes that are quick enough, and seconds for one fit on KEPT tokens and a core of its own, roughly."""
KEPT, RUN = 4000, 2000
"""Tokens that a fit's seconds are for; tokens that a core harvests in a second, roughly."""
LONGEST_S = 60
ROW_TOKENS, WORD_CHARACTERS = 210, 4
"""Tokens of a task row, and characters of a token, roughly."""


@dataclass(frozen=True)
class SmallStudy:
    """Everything that decides a small study's numbers, as plain values.

    features, labels, probes: as in a study's file. families: of task rules; () = all. rows: of each rule. text: pasted,
    to be read in place of task rows, a paragraph a document; None = task rows. per_document: tokens that are kept of
    each document. dynamic_share: measure it too.
    """

    model: str
    features: tuple[str, ...]
    labels: tuple[str, ...]
    probes: tuple[str, ...]
    families: tuple[str, ...] = ()
    rows: int = 1
    text: str | None = None
    per_document: int = 40
    dynamic_share: bool = False

    @classmethod
    def read(cls, written: str) -> SmallStudy:
        """A study from its fields as JSON, checked against what the form offers.

        Raises:
            ValueError: JSON that is none, or a choice that is not offered.
        """
        try:
            said = json.loads(written)
            lists: dict[str, Any] = {n: tuple(said.pop(n)) for n in ("features", "labels", "probes", "families")}
            study = cls(**lists, **said)
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            raise ValueError("its fields are not those of a study. Copy the whole link again.") from error
        study._check_offered()
        return study

    def _check_offered(self) -> None:
        if self.model not in list_models():
            raise ValueError(f"there is no model {self.model!r} here. Choose from {', '.join(list_models())}.")
        offered = {
            "features": feature_names(read_config(self.model)), "labels": label_names(self.text is not None),
            "probes": list(PROBES), "families": [rule.family for rule in RULES.values()],
        }  # fmt: skip
        for name, options in offered.items():
            for choice in getattr(self, name):
                if choice not in options:
                    raise ValueError(f"{choice!r} is none of the {name} offered.")
        for name, low, high in (("rows", 1, 8), ("per_document", 5, 1000)):
            if type(getattr(self, name)) is not int or not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} may be {low} to {high}.")
        if type(self.dynamic_share) is not bool or not isinstance(self.text, str | None):
            raise ValueError("its text or its dynamic_share is of another kind.")
        if not is_whole(self.text or ""):
            raise ValueError("its text holds half a character. Copy the whole link again.")

    @property
    def rules(self) -> list[int]:
        return [number for number, rule in RULES.items() if not self.families or rule.family in self.families]

    @property
    def documents(self) -> int:
        if self.text is None:
            return self.rows * len(self.rules)
        return sum(bool(part.strip()) for part in self.text.split("\n\n"))

    def fields(self, data: str | None = None) -> dict[str, Any]:
        """As a study's file has them.

        Args:
            data: where the pasted text lies; None = in a file called PASTED, where the study is run.
        """
        rules = "" if not self.families else f",rules={'+'.join(map(str, self.rules))}"
        corpus = {"data": f"tasks:rows={self.rows}{rules}"}
        if self.text is not None:
            corpus = {"data": data or PASTED, "split_text": "paragraph"}
        return {
            "title": f"{_and(self.labels)} in {_and(tuple(dict.fromkeys(f.partition('@')[0] for f in self.features)))}",
            "models": self.model, **corpus, "keep": {"per_document": self.per_document},
            "features": list(self.features), "labels": list(self.labels), "drop_rare": True,
            "probes": list(self.probes), "analyses": ["probing", *(["dynamic_share"] if self.dynamic_share else [])],
        }  # fmt: skip

    def yaml(self) -> str:
        return yaml.safe_dump(self.fields(), sort_keys=False, allow_unicode=True, width=100)

    def study(self, folder: Path) -> Study:
        """The study, with a pasted text written into a folder.

        Raises:
            ValueError: what a study refuses, or one that takes too long.
        """
        self.check()
        where = folder / PASTED
        study = Study.from_dict(self.fields(str(where)), "The form")
        if self.text is not None:
            folder.mkdir(parents=True, exist_ok=True)
            where.write_text(self.text, encoding="utf-8")
        return study

    def check(self) -> None:
        """Refuse what is missing or would take too long.

        Raises:
            ValueError: in one sentence.
        """
        if self.text is not None and not self.text.strip():
            raise ValueError("There is no text. Paste a text, or take task rows.")
        for name in ("features", "labels", "probes"):
            if not getattr(self, name):
                raise ValueError(f"No {name} were chosen. Choose at least one.")
        seconds = self.seconds()
        if seconds > LONGEST_S:
            raise ValueError(
                f"This would take about {seconds:.0f} s, and a study on this page may take {LONGEST_S}. Choose fewer "
                "features, labels or tokens, or run the YAML below from the command line."
            )

    def seconds(self) -> float:
        """How long it takes on a core of its own, roughly."""
        length = ROW_TOKENS * self.documents if self.text is None else len(self.text) // WORD_CHARACTERS
        kept = min(length, self.per_document * self.documents)
        cells = resolve(self.features, read_config(self.model))
        layers = {place(one.name)["layer"] for one in cells}
        # of each cell itself and under two fakes, reduced residual streams, random weights; then residual and position
        fits = (6 * len(cells) + len(layers) + 1) * len(self.labels)
        return 2 * length / RUN + sum(PROBES[name] * fits * max(kept, 500) / KEPT for name in self.probes)


def feature_names(cfg: DCFormerConfig) -> list[str]:
    """Everything that can be probed in a model, by name."""
    found = []
    for kind in KINDS.values():
        places = [str(place) for place in kind.places(cfg)]
        found += [f"{kind.name}@{at}" if at else kind.name for at in places]
    return found


def label_names(text: bool) -> list[str]:
    """Labels that a corpus has: those of any text, and of task rows their own first."""
    return list(TEXT_LABELS if text else (*TASK_LABELS, *TEXT_LABELS))


def studies_in(*folders: Path) -> dict[str, Path]:
    """Finished studies in some folders, or in a subfolder `results` of one there, by what they are called, in order."""
    found: dict[str, Path] = {}
    for folder in folders:
        for pattern in ("*/config.json", "*/results/config.json"):
            for path in sorted(folder.glob(pattern)):
                if is_finished(path.parent):
                    found[path.relative_to(folder).parts[0]] = path.parent
    return found


def _and(names: tuple[str, ...]) -> str:
    told = [name.replace("_", " ") for name in names] or ["nothing"]
    first = ", ".join(told[:-1])
    return f"{first} and {told[-1]}" if first else told[-1]
