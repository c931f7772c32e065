"""The result of probing as a tidy table, one row for each cell, label, probe, score and reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probes.estimators import ProbeKind
from probes.probing.cells import seed_of
from probes.probing.jobs import fit_key
from probes.probing.label import Label
from probes.probing.plan import Comparison, Plan
from probes.probing.resampling import Resamples, benjamini_hochberg, holm, improvement_p, score_of
from probes.probing.scores import SCORES, Outcome, Parts, Score

COLUMNS = {
    "label": "name of the label",
    "probe": "name of the probe, of probes.estimators.PROBES",
    "score": "name of the score, of probes.probing.SCORES",
    "value": "the score of held-out tokens, over all of them",
    "low": "lower end of its bootstrap interval over documents",
    "high": "upper end",
    "against": "name of the reference, of probes.probing.REFERENCES",
    "reference": "the reference's score",
    "difference": "value - reference; against control_task this is selectivity",
    "difference_low": "lower end of its bootstrap interval over the same resampled documents",
    "difference_high": "upper end",
    "p": "one-sided p that the cell is no better than the reference (paired t-test over documents)",
    "p_holm": "p adjusted by Holm for all cells, labels and probes with the same score and reference",
    "p_bh": "p adjusted by Benjamini and Hochberg for the same",
    "tokens": "how many tokens have the label",
    "documents": "how many documents these tokens are of",
    "classes": "how many classes; 0 for numbers",
    "largest_class": "share of the most common class, nan for numbers",
    "smallest_class": "share of the rarest class, nan for numbers",
    "features": "how many features the cell has",
    "regularisation": "median over outer folds of what was chosen inside; nan where nothing is chosen",
}
"""Of the table, beside the labels of the cells, and what they mean."""


@dataclass(frozen=True)
class _Scored:
    """A score of one outcome: its parts, its value, and its value in each resample."""

    parts: Parts
    value: float
    resampled: NDArray[np.float64]


class Table:
    """Makes the rows from the outcomes of all fits.

    Args:
        outcome: the outcome of a reference or a cell for a label and a probe.
        confidence: of the intervals.
    """

    def __init__(self, plan: Plan, outcome: Callable[[Comparison, Label, str], Outcome], confidence: float):
        self.plan, self.outcome, self.confidence = plan, outcome, confidence
        self._found: dict[tuple[str, ...], _Scored | None] = {}

    @cached_property
    def _resamples(self) -> dict[str, Resamples]:
        """Of each label; labels of the same documents share theirs."""
        seed = seed_of(self.plan.seed, "resamples")
        sizes = {label.n_documents for label in self.plan.labels}
        made = {size: Resamples(size, seed) for size in sizes}
        return {label.name: made[label.n_documents] for label in self.plan.labels}

    def frame(self) -> pd.DataFrame:
        rows = [
            row
            for number in range(len(self.plan.cells))
            for label in self.plan.labels
            for probe in self.plan.probes_of(label)
            for score in SCORES.values()
            for row in self._rows(number, label, probe, score)
        ]
        if not rows:
            raise ValueError(
                f"None of the references {', '.join(self.plan.references)} can be had for these probes. Add 'constant'."
            )
        table = pd.DataFrame(rows, columns=[*rows[0]])
        for name, adjust in (("p_holm", holm), ("p_bh", benjamini_hochberg)):
            table[name] = table.groupby(["score", "against"])["p"].transform(lambda p, to=adjust: to(p.to_numpy()))
        labels = [name for name in table.columns if name not in COLUMNS]
        return table[[*labels, *COLUMNS]]

    def _rows(self, number: int, label: Label, kind: ProbeKind, score: Score) -> list[dict[str, Any]]:
        """A cell's rows under one score, one for each reference that has it."""
        own: Comparison = (self.plan.sources[number], "real")
        probe = kind.name
        ours = self._scored(own, label, probe, score)
        if ours is None:
            return []
        low, high = self._resamples[label.name].interval(ours.resampled, self.confidence)
        start = {
            **self.plan.cells[number].labels, "label": label.name, "probe": probe, "score": score.name,
            "value": ours.value, "low": low, "high": high,
        }  # fmt: skip
        about = _about(label) | {
            "features": self.plan.sources[number].features,
            "regularisation": _median(self.outcome(own, label, probe).chosen),
        }
        rows = []
        for name, comparison in self.plan.comparisons(number, kind):
            theirs = self._scored(comparison, label, probe, score)
            if theirs is not None:
                p = self._p(own, comparison, label, probe, score)
                rows.append({**start, "against": name, **self._held_against(ours, theirs, label), "p": p, **about})
        return rows

    def _held_against(self, ours: _Scored, theirs: _Scored, label: Label) -> dict[str, float]:
        resampled = ours.resampled - theirs.resampled
        low, high = self._resamples[label.name].interval(resampled, self.confidence)
        return {
            "reference": theirs.value, "difference": ours.value - theirs.value,
            "difference_low": low, "difference_high": high,
        }  # fmt: skip

    def _p(self, own: Comparison, reference: Comparison, label: Label, probe: str, score: Score) -> float:
        tested = score if score.tested_as is None else SCORES[score.tested_as]
        parts = [tested.parts(self.outcome(of, label, probe), label) for of in (own, reference)]
        assert parts[0] is not None
        assert parts[1] is not None
        return improvement_p(tested, parts[0], parts[1], label)

    def _scored(self, of: Comparison, label: Label, probe: str, score: Score) -> _Scored | None:
        source, target = of
        key = ("", target, label.name, score.name) if source is None else (
            *fit_key(source, label, probe, target), score.name,
        )  # fmt: skip
        if key not in self._found:
            parts = score.parts(self.outcome(of, label, probe), label)
            self._found[key] = None if parts is None else _Scored(
                parts, score_of(score, parts, label), self._resamples[label.name].scores(score, parts, label)
            )  # fmt: skip
        return self._found[key]


def _about(label: Label) -> dict[str, Any]:
    shares = np.bincount(label.values) / len(label.values) if label.classes else np.full(1, np.nan)
    return {
        "tokens": len(label.tokens), "documents": label.n_documents, "classes": len(label.classes),
        "largest_class": float(shares.max()), "smallest_class": float(shares.min()),
    }  # fmt: skip


def _median(chosen: tuple[float, ...]) -> float:
    return float(np.median(chosen)) if chosen else float("nan")
