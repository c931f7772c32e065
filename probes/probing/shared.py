"""The same held-out predictions as held_out.py gives, for several targets of the same features at once.

Moments are summed once a fold, and every training set is a union of folds: one small diagonalisation serves all
targets and penalties. Logistic fits run side by side, each warm-started from the next stronger penalty, until weaker
ones only do harm.
Axes: T target, F problem, K class, D feature, R row, P penalty.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.estimators.chunked_rows import ChunkedRows, TrainingSets
from probes.estimators.multinomial import Coefficients, Problems, fit_multinomial
from probes.probing.held_out import HeldOut

CHOOSING_TOLERANCE = 3e-4
"""Of fits that only choose a penalty."""
FINAL_TOLERANCE = 1e-4
"""Of fits that predict."""


class NestedFolds:
    """The training sets of a nested cross-validation: all folds but two, then all folds but one."""

    def __init__(self, rows: ChunkedRows):
        self.n_folds = len(rows.chunks)
        self.pairs = list(itertools.combinations(range(self.n_folds), 2))
        left_out = [*self.pairs, *((fold,) for fold in range(self.n_folds))]
        member = torch.ones(len(left_out), self.n_folds, dtype=torch.bool)
        for number, folds in enumerate(left_out):
            member[number, list(folds)] = False
        self.sets = rows.training_sets(member)

    def scored(self) -> list[tuple[int, int, int]]:
        """(training set, fold that it is scored on, outer fold for which this counts)."""
        return [(s, scored, outer) for s, pair in enumerate(self.pairs) for scored, outer in (pair, pair[::-1])]


def linear_held_out(
    X: NDArray, targets: NDArray, classes: int, folds: NDArray[np.intp], penalties: Sequence[float],
    dtype: torch.dtype = torch.float32, tolerances: tuple[float, float] = (CHOOSING_TOLERANCE, FINAL_TOLERANCE),
) -> list[HeldOut]:  # fmt: skip
    """held_out with LinearProbe for each target.

    Args:
        targets: classes as numbers from 0, [target, token]. penalties: the strongest first.
        tolerances: of the fits that choose a penalty, and of those that predict.
    """
    rows = ChunkedRows(X, folds, dtype)
    nested, n_targets = NestedFolds(rows), len(targets)
    labels = [codes_RT.mT.contiguous() for codes_RT in rows.cut(targets.T.astype(np.int64))]
    set_of, target_of = _problems(range(len(nested.pairs)), n_targets)
    none = torch.zeros(len(set_of), dtype=torch.float64)
    problems = Problems(rows, nested.sets, labels, classes, set_of, target_of, none)
    path: list[Coefficients] = []
    losses = torch.full((n_targets, nested.n_folds, len(penalties)), torch.inf, dtype=torch.float64)
    going = torch.ones(n_targets, dtype=torch.bool)
    for number, penalty in enumerate(penalties):
        here, before = going[target_of], path[-1] if path else None
        start = None if before is None else before.at(here)
        fitted = fit_multinomial(problems.with_penalty(penalty).at(here), start, tolerances[0])
        path.append(fitted if before is None else before.replaced(here, fitted))
        losses[going, :, number] = _inner_losses(rows, nested, labels, path[-1], set_of)[going]
        going &= ~_rising(losses[:, :, : number + 1])
        if not going.any():
            break
    best = losses.argmin(2)  # [T, fold]
    return _predictions(rows, nested, labels, classes, penalties, path, best, tolerances[1])


def _inner_losses(
    rows: ChunkedRows, nested: NestedFolds, labels: Sequence[Tensor], fitted: Coefficients, set_of: Tensor
) -> Tensor:
    """Summed cross-entropy (nats) within the training set of each outer fold, [T, fold]."""
    n_targets = len(labels[0])
    weights, intercepts = fitted.raw(nested.sets, set_of)
    losses = torch.zeros(n_targets, nested.n_folds, dtype=torch.float64)
    for s, scored, outer in nested.scored():
        here = slice(s * n_targets, (s + 1) * n_targets)
        losses[:, outer] += _nats(weights[here], intercepts[here], rows.chunks[scored], labels[scored])
    return losses


def _rising(losses: Tensor) -> Tensor:
    """Targets that two successive weaker penalties have made worse for every outer fold: no weaker one is tried."""
    if losses.shape[2] < 3:
        return torch.zeros(len(losses), dtype=torch.bool)
    last = losses[:, :, -3:].diff(dim=2)
    return (last > 0).all(2).all(1)


def _predictions(
    rows: ChunkedRows, nested: NestedFolds, labels: Sequence[Tensor], classes: int, penalties: Sequence[float],
    path: Sequence[Coefficients], best: Tensor, tolerance: float,
) -> list[HeldOut]:  # fmt: skip
    """Each outer fold from all others, with the penalty chosen for it."""
    n_targets, n_pairs = len(best), len(nested.pairs)
    set_of, target_of = _problems(range(n_pairs, n_pairs + nested.n_folds), n_targets)
    chosen = best.T.flatten()  # as the problems: fold by fold, target by target
    penalty = torch.tensor(penalties, dtype=torch.float64)[chosen]
    problems = Problems(rows, nested.sets, labels, classes, set_of, target_of, penalty)
    fitted = fit_multinomial(problems, _start(path, nested, chosen, n_targets), tolerance)
    weights, intercepts = fitted.raw(nested.sets, set_of)
    predicted, bits = [], []
    for fold in range(nested.n_folds):
        here = slice(fold * n_targets, (fold + 1) * n_targets)
        scores = weights[here] @ rows.chunks[fold].mT + intercepts[here][:, :, None]
        log_proba = scores.double().log_softmax(1)
        predicted.append(log_proba.argmax(1).mT)
        bits.append(-log_proba.gather(1, labels[fold][:, None])[:, 0].mT / np.log(2))
    predicted_NT, bits_NT = rows.join(predicted), rows.join(bits)
    values = [tuple(float(penalties[int(number)]) for number in row) for row in best]
    return [HeldOut(predicted_NT[:, t], bits_NT[:, t], values[t]) for t in range(n_targets)]


def _start(path: Sequence[Coefficients], nested: NestedFolds, chosen: Tensor, n_targets: int) -> Coefficients:
    """For each outer fold and target, a fit without this fold and one more, at the chosen penalty."""
    near = [next(s for s, pair in enumerate(nested.pairs) if fold in pair) for fold in range(nested.n_folds)]
    number = torch.tensor([s * n_targets + target for s in near for target in range(n_targets)])
    weights, intercepts = (
        torch.stack([getattr(path[int(p)], name)[f] for p, f in zip(chosen, number, strict=True)])
        for name in ("weights", "intercepts")
    )
    nothing = torch.zeros(len(chosen))
    return Coefficients(weights, intercepts, nothing, nothing)


def _problems(sets: Sequence[int], n_targets: int) -> tuple[Tensor, Tensor]:
    """(training set, target) of each problem: set by set, target by target."""
    return torch.tensor(list(sets)).repeat_interleave(n_targets), torch.arange(n_targets).repeat(len(sets))


def _nats(weights_TKD: Tensor, intercepts_TK: Tensor, X: Tensor, labels_TR: Tensor) -> Tensor:
    """Summed cross-entropy of a fold for each target, [T]."""
    scores = weights_TKD @ X.mT + intercepts_TK[:, :, None]
    return (scores.logsumexp(1) - scores.gather(1, labels_TR[:, None])[:, 0]).sum(1, dtype=torch.float64)


# -- ridge -----------------------------------------------------------------------------------------


def ridge_held_out(
    X: NDArray, targets: NDArray, classes: int | None, folds: NDArray[np.intp], penalties: Sequence[float]
) -> list[HeldOut]:
    """held_out with RidgeProbe or RidgeClassProbe for each target.

    Args:
        targets: [target, token], numbers, or classes as numbers from 0. classes: how many, None for numbers.
    """
    rows = ChunkedRows(X, folds)
    nested, n_targets = NestedFolds(rows), len(targets)
    columns = targets.T[:, :, None].astype(np.float64) if classes is None else _indicators(targets, classes)
    truth = rows.cut(columns)  # [R, T, K] a fold; numbers have K = 1
    ridge = _Ridge(rows, nested.sets, truth, penalties)
    losses = torch.zeros(n_targets, nested.n_folds, len(penalties), dtype=torch.float64)
    for s, scored, outer in nested.scored():
        for number in range(len(penalties)):
            error = ridge.predict(s, scored, torch.full((n_targets,), number)) - truth[scored]
            losses[:, outer, number] += error.square().sum((0, 2))
    best = losses.argmin(2)
    found = [ridge.predict(len(nested.pairs) + fold, fold, best[:, fold]) for fold in range(nested.n_folds)]
    scores = rows.join(found)
    predicted = scores[:, :, 0] if classes is None else scores.argmax(2)
    values = [tuple(float(penalties[int(number)]) for number in row) for row in best]
    return [HeldOut(predicted[:, t], None, values[t]) for t in range(n_targets)]


class _Ridge:
    """Ridge solutions of every training set for all targets and penalties."""

    def __init__(self, rows: ChunkedRows, sets: TrainingSets, truth: Sequence[Tensor], penalties: Sequence[float]):
        self.rows, self.sets, self.shape = rows, sets, truth[0].shape[1:]
        self.penalties = torch.tensor(penalties, dtype=torch.float64)
        flat = [part.flatten(1) for part in truth]
        weights = sets.member.double() / sets.rows[:, None]
        products = torch.stack([X.mT @ part for X, part in zip(rows.chunks, flat, strict=True)])
        self.means = weights @ torch.stack([part.sum(0) for part in flat])  # [S, TK]
        covariance = torch.einsum("sc,cdm->sdm", weights, products) - sets.mean[:, :, None] * self.means[:, None]
        self.projected = sets.vectors.mT @ (covariance / sets.scale[:, :, None])  # [S, D, TK]

    def predict(self, s: int, fold: int, numbers: Tensor) -> Tensor:
        """Of a fold from a training set, each target with its penalty's number, [R, T, K]."""
        shrunk = self.sets.values[s][:, None] + self.penalties[numbers]  # [D, T]
        rotated = self.projected[s].unflatten(1, self.shape) / shrunk[..., None]  # [D, T, K]
        coefficients = self.sets.vectors[s] @ rotated.flatten(1)
        X = (self.rows.chunks[fold] - self.sets.mean[s]) / self.sets.scale[s]
        return (X @ coefficients + self.means[s]).unflatten(1, self.shape)


def _indicators(targets: NDArray, classes: int) -> NDArray[np.float64]:
    """1 at a token's class and -1 at the others, [token, target, K]."""
    return np.where(targets.T[:, :, None] == np.arange(classes), 1.0, -1.0)
