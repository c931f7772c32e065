"""What is to be read: labels of tokens, their grouped folds, and the fake labels that they are held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from probes.probing.cells import digest, seed_of

FOLD_TRIES = 10
"""Splits that are tried until every class stands in enough folds."""


@dataclass(frozen=True)
class Label:
    """A label of some tokens.

    kind: "classes" or "numbers". tokens: places of the tokens that have it, among all; the other arrays are theirs.
    values: classes as numbers from 0, or float64. classes: their names. documents: as numbers from 0, those without
    such a token left out. folds: of each token. fakes: further targets by name, in the manner of values.
    """

    name: str
    kind: str
    tokens: NDArray[np.intp]
    values: NDArray
    classes: tuple[str, ...]
    documents: NDArray[np.intp]
    folds: NDArray[np.intp]
    fakes: Mapping[str, NDArray]
    digest: str

    @property
    def n_documents(self) -> int:
        return int(self.documents.max()) + 1

    def target(self, name: str) -> NDArray:
        return self.values if name == "real" else self.fakes[name]

    def by_document(self, values: NDArray) -> NDArray[np.float64]:
        """Sums over each document's tokens, [document]."""
        return np.bincount(self.documents, weights=values, minlength=self.n_documents).astype(np.float64)

    def by_document_and_class(self, values: NDArray, target: NDArray) -> NDArray[np.float64]:
        """Sums over each document's tokens of each class of a target, [document, K]."""
        shape = (self.n_documents, len(self.classes))
        cell = self.documents * shape[1] + target
        return np.bincount(cell, weights=values, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)


def make_label(name: str, values: Any, documents: NDArray, token_ids: NDArray | None, n_folds: int, seed: int) -> Label:
    """Check a label, split its documents into folds, and draw its fakes.

    Args:
        values: [token]; floating point = numbers, anything else classes. None, NaN and pandas' NA: the token has no
            such label and is left out. documents: [token]. token_ids: [token], for the control task.
    Raises:
        ValueError: lengths that differ, one class, too few documents, or a class in too few of them.
    """
    column = pd.Series(values).infer_objects().reset_index(drop=True)  # 0.5 and None, as objects, are numbers too
    if column.shape != documents.shape:
        raise ValueError(f"Label {name!r} has {len(column)} tokens, documents {len(documents)}. Give each token one.")
    tokens = np.flatnonzero(column.notna())
    kept = column.iloc[tokens]
    names, document_of = np.unique(documents[tokens], return_inverse=True)
    if len(names) < n_folds:
        raise ValueError(
            f"Label {name!r} stands in {len(names)} documents, and {n_folds} folds of whole documents need at least "
            f"{n_folds}. Give more documents{f', or folds={len(names)}' if len(names) >= 3 else ''}."
        )
    classes: tuple[str, ...] = ()
    if pd.api.types.is_float_dtype(kept):
        kind, numbers = "numbers", kept.to_numpy(np.float64)
        _check_numbers(name, numbers)
        folds = GroupKFold(n_folds, shuffle=True, random_state=seed_of(seed, "folds", name))
        fold_of = _fold_of(folds, numbers, document_of)
    else:
        kind = "classes"
        found, numbers = np.unique(kept.to_numpy().astype(str), return_inverse=True)
        classes = tuple(str(value) for value in found)
        _check_classes(name, numbers, classes, document_of, n_folds)
        fold_of = split_documents(name, numbers, classes, document_of, n_folds, seed)
    fakes = _fakes(name, numbers, None if token_ids is None else token_ids[tokens], seed)
    parts = [tokens, numbers, document_of, fold_of, *fakes.values()]
    content = digest(np.concatenate([np.asarray(part, dtype=np.float64) for part in parts]))
    return Label(name, kind, tokens, numbers, classes, document_of, fold_of, fakes, content)


def _fakes(name: str, values: NDArray, token_ids: NDArray | None, seed: int) -> dict[str, NDArray]:
    """Labels that say nothing, at the rates of the real ones.

    control_task: a value drawn for each token type and kept wherever it occurs (Hewitt & Liang 2019), so that it can
    be learned from nothing but the token's identity. shuffled_labels: values traded among all tokens.
    """
    rng = np.random.default_rng(seed_of(seed, "fakes", name))
    fakes = {"shuffled_labels": rng.permutation(values)}
    if token_ids is not None:
        types, type_of = np.unique(token_ids, return_inverse=True)
        fakes["control_task"] = rng.choice(values, size=len(types))[type_of]
    return fakes


def _check_numbers(name: str, values: NDArray[np.float64]) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"Label {name!r} is infinite at some tokens. Give finite numbers, or NaN where there is none.")
    if not np.ptp(values):
        raise ValueError(f"Label {name!r} is {values[0]:g} at every token. A probe needs numbers that differ.")


def _check_classes(
    name: str, codes: NDArray[np.intp], classes: tuple[str, ...], documents: NDArray[np.intp], n_folds: int
) -> None:
    if len(classes) < 2:
        raise ValueError(
            f"Label {name!r} has one class, {classes[0]!r}. A probe needs at least 2. Give another label, or more text."
        )
    spread = np.bincount(np.unique(np.stack([codes, documents]), axis=1)[0], minlength=len(classes))
    rarest = int(spread.argmin())
    if spread[rarest] < n_folds:
        raise ValueError(
            f"Class {classes[rarest]!r} of label {name!r} occurs in {spread[rarest]} documents, and {n_folds} folds "
            f"need it in at least {n_folds}. Merge it with another, set it to None to leave it out, or give more text."
        )


def split_documents(
    name: str, codes: NDArray[np.intp], classes: tuple[str, ...], documents: NDArray[np.intp], n_folds: int, seed: int
) -> NDArray[np.intp]:
    """Folds of whole documents at like rates of classes, every class in at least 3 of them.

    With fewer, a class would be missing from a training set that leaves two folds out.
    """
    missing = 0
    for number in range(FOLD_TRIES):
        state = seed_of(seed, "folds", name, str(number))
        splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=state)
        folds = _fold_of(splitter, codes, documents)
        present = np.zeros((len(classes), n_folds), dtype=bool)
        present[codes, folds] = True
        if present.sum(1).min() >= 3 and len(np.unique(folds)) == n_folds:
            return folds
        missing = int(present.sum(1).argmin())
    raise ValueError(
        f"In {FOLD_TRIES} splits, class {classes[missing]!r} of label {name!r} never stood in 3 of {n_folds} folds of "
        "whole documents. Merge it with another, set it to None to leave it out, or give more text."
    )


def _fold_of(
    splitter: StratifiedGroupKFold | GroupKFold, values: NDArray, documents: NDArray[np.intp]
) -> NDArray[np.intp]:
    folds = np.empty(len(values), dtype=np.intp)
    for number, (_, test) in enumerate(splitter.split(np.zeros((len(values), 1)), values, documents)):
        folds[test] = number
    return folds
