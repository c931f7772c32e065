"""Scores of held-out predictions, as sums over documents: whole documents are what intervals and tests resample.

Axes: D document, K class, B resample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.probing.held_out import HeldOut
from probes.probing.label import Label

SUMS = ("correct", "bits", "squared_error", "classes", "spread")


@dataclass(frozen=True)
class Outcome:
    """One probe's predictions of one target, summed over each document's tokens.

    correct: right ones, by true class, [D, K]. bits: -log2 probability of the true class, [D]. squared_error: [D].
    Each None where it has no meaning. classes: tokens of each true class, [D, K]. spread: squared distance of the
    numbers from their mean, [D]. chosen: the regularisation of each outer fold.
    """

    chosen: tuple[float, ...]
    correct: NDArray | None = None
    bits: NDArray | None = None
    squared_error: NDArray | None = None
    classes: NDArray | None = None
    spread: NDArray | None = None

    @classmethod
    def of(cls, found: HeldOut, label: Label, target: str) -> Outcome:
        truth, predicted = label.target(target), found.predicted
        bits = None if found.bits is None else label.by_document(found.bits)
        if label.kind == "numbers":
            assert predicted is not None
            error, spread = (label.by_document((around - truth) ** 2) for around in (predicted, truth.mean()))
            return cls(found.chosen, squared_error=error, spread=spread)
        counts = label.by_document_and_class(np.ones(len(truth)), truth)
        right = None if predicted is None else label.by_document_and_class(predicted == truth, truth)
        return cls(found.chosen, correct=right, bits=bits, classes=counts)

    def to_json(self) -> dict[str, Any]:
        kept = {name: values for name in SUMS if (values := getattr(self, name)) is not None}
        # whole numbers are written as such: a line is kept for every fit
        counts = ("correct", "classes")
        lists = {name: (values.astype(int) if name in counts else values).tolist() for name, values in kept.items()}
        return lists | {"chosen": list(self.chosen)}

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Outcome:
        sums = {name: np.asarray(kept[name], dtype=np.float64) for name in SUMS if name in kept}
        return cls(tuple(kept["chosen"]), **sums)


Parts = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Numerators and denominators, [D, columns] each: a score is made from the mean over columns of their ratios."""


@dataclass(frozen=True)
class Score:
    """A score by name.

    better: "higher" or "lower". parts: from an outcome and its label. finish: the mean ratio -> the score.
    tested_as: the score whose difference is a sum over documents and says the same; None = this one.
    """

    name: str
    title: str
    unit: str
    better: str
    definition: str
    parts: Callable[[Outcome, Label], Parts | None]
    finish: Callable[[Any, Label], Any] = lambda ratio, label: ratio
    tested_as: str | None = None


def _column(values: NDArray) -> NDArray[np.float64]:
    return values[:, None]


def _accuracy(of: Outcome, label: Label) -> Parts | None:
    if of.correct is None or of.classes is None:
        return None
    return _column(of.correct.sum(1)), _column(of.classes.sum(1))


def _balanced(of: Outcome, label: Label) -> Parts | None:
    if of.correct is None or of.classes is None:
        return None
    present = of.classes.sum(0) > 0  # a control task may not draw every class
    return of.correct[:, present], of.classes[:, present]


def _cross_entropy(of: Outcome, label: Label) -> Parts | None:
    if of.bits is None or of.correct is None or of.classes is None:
        return None
    return _column(of.bits), _column(of.classes.sum(1))


def _explained(of: Outcome, label: Label) -> Parts | None:
    if of.squared_error is None or of.spread is None:
        return None
    return _column(of.squared_error), _column(of.spread)


def _codelength(of: Outcome, label: Label) -> Parts | None:
    if of.bits is None or of.correct is not None or of.classes is None:
        return None
    return _column(of.bits), _column(of.classes.sum(1))


def _compression(of: Outcome, label: Label) -> Parts | None:
    parts = _codelength(of, label)
    return None if parts is None else (parts[1] * np.log2(len(label.classes)), parts[0])


SCORES = {
    score.name: score
    for score in (
        Score("accuracy", "Accuracy", "share of tokens", "higher", "Share of held-out tokens whose class is predicted.",
              _accuracy),
        Score("balanced_accuracy", "Balanced accuracy", "mean share over classes", "higher",
              "Mean over classes of the share of their held-out tokens that are predicted; 1 / classes by chance.",
              _balanced),
        Score("cross_entropy", "Cross-entropy", "bits per token", "lower",
              "Mean of -log2 of the probability given to the true class of a held-out token.", _cross_entropy),
        Score("r2", "R²", "share of variance", "higher",
              "1 - squared error / variance of the label around its mean; negative where worse than the mean.",
              _explained, finish=lambda ratio, label: 1.0 - ratio),
        Score("codelength", "Codelength", "bits", "lower", "Bits of all labels in the online code, the first block "
              "by the uniform code (Voita & Titov 2020).", _codelength,
              finish=lambda ratio, label: ratio * len(label.tokens)),
        Score("compression", "Compression", "ratio", "higher", "Uniform codelength / online codelength.",
              _compression, tested_as="codelength"),
    )
}  # fmt: skip
