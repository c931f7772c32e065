"""Many multinomial logistic regressions over the same rows at once: batched L-BFGS in whitened coordinates.

Each problem minimises, over its own training set, the mean cross-entropy (nats) + penalty / 2 * ||coefficients||^2 of
standardised features, intercepts free: scikit-learn's LogisticRegression behind a StandardScaler with
C = 1 / (penalty * rows). Coordinates are whitened so that the Hessian's upper bound (Böhning 1992, Ann. Inst. Stat.
Math. 44) is half the identity: the first step of each path is then a descent step, and few are needed.
Axes: F problem, K class, D feature, P all parameters of a problem, R row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from probes.estimators.chunked_rows import ChunkedRows, TrainingSets

HISTORY = 8
"""Steps that L-BFGS remembers."""
ENOUGH_DESCENT = 1e-4
"""Of what the gradient promises, the share that a step must keep (Armijo)."""
HALVINGS = 20


@dataclass(frozen=True)
class Coefficients:
    """Of standardised features, [F, K, D], and intercepts [F, K]; iterations [F]; converged: bool [F]."""

    weights: Tensor
    intercepts: Tensor
    iterations: Tensor
    converged: Tensor

    def at(self, chosen: Tensor) -> Coefficients:
        """Of some problems; chosen is bool [F]."""
        return Coefficients(*(part[chosen] for part in self._parts()))

    def replaced(self, chosen: Tensor, new: Coefficients) -> Coefficients:
        """The same with new ones for some problems."""
        parts = [part.clone() for part in self._parts()]
        for part, values in zip(parts, new._parts(), strict=True):
            part[chosen] = values
        return Coefficients(*parts)

    def _parts(self) -> tuple[Tensor, ...]:
        return self.weights, self.intercepts, self.iterations, self.converged

    def raw(self, sets: TrainingSets, set_of: Tensor) -> tuple[Tensor, Tensor]:
        """The same for the rows as ChunkedRows holds them, which are standardised by all rows."""
        weights = self.weights / sets.scale[set_of][:, None]
        return weights, self.intercepts - (weights * sets.mean[set_of][:, None]).sum(-1)


@dataclass(frozen=True)
class Problems:
    """What is to be fitted.

    labels: for each chunk the classes of its rows under each target, int64 [target, R]. set_of, target_of: the
    training set and the target of each problem, [F]. penalty: [F].
    """

    rows: ChunkedRows
    sets: TrainingSets
    labels: Sequence[Tensor]
    classes: int
    set_of: Tensor
    target_of: Tensor
    penalty: Tensor

    def with_penalty(self, penalty: float) -> Problems:
        """The same problems, all with one penalty."""
        return replace(self, penalty=torch.full_like(self.penalty, penalty))

    def at(self, chosen: Tensor) -> Problems:
        """Some of the problems; chosen is bool [F]."""
        return replace(self, set_of=self.set_of[chosen], target_of=self.target_of[chosen], penalty=self.penalty[chosen])


def fit_multinomial(
    problems: Problems, start: Coefficients | None = None, tolerance: float = 1e-4, max_iterations: int = 200
) -> Coefficients:
    """Solve all problems; those that have converged drop out.

    Args:
        start: where to begin; None = zero.
        tolerance: largest component of the gradient in whitened coordinates.
    """
    whitened = _Whitened(problems)
    x = whitened.zeros() if start is None else whitened.pack(start.weights, start.intercepts)
    active = torch.arange(len(x))
    value, gradient = whitened.value_and_gradient(x, active)
    memory = _Memory()
    iterations = torch.zeros(len(x), dtype=torch.long)
    stuck = torch.zeros(len(x), dtype=torch.bool)
    for _ in range(max_iterations):
        going = (gradient.abs().amax(1) > tolerance) & ~stuck[active]
        if not going.all():
            active, value, gradient = active[going], value[going], gradient[going]
            memory.keep(going)
        if not len(active):
            break
        direction = memory.direction(gradient)
        step, value, new_gradient, moved = _line_search(whitened, x[active], value, gradient, direction, active)
        x[active] += step
        stuck[active[~moved]] = True
        memory.add(step, new_gradient - gradient)
        gradient = new_gradient
        iterations[active] += 1
    converged = torch.ones(len(x), dtype=torch.bool)
    converged[active] = gradient.abs().amax(1) <= tolerance
    weights, intercepts = whitened.unpack(x)
    return Coefficients(weights, intercepts, iterations, converged & ~stuck)


def _line_search(
    whitened: _Whitened, x: Tensor, value: Tensor, gradient: Tensor, direction: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Halve each problem's step until it descends: (step, value, gradient, whether it moved) of each."""
    slope = (gradient * direction).sum(1)
    length = torch.ones_like(slope)
    new_value, new_gradient = value.clone(), gradient.clone()
    trying = torch.arange(len(x))
    for _ in range(HALVINGS):
        at = x[trying] + length[trying, None] * direction[trying]
        found, found_gradient = whitened.value_and_gradient(at, active[trying])
        rounding = 8 * torch.finfo(x.dtype).eps * value[trying].abs()
        bound = value[trying] + ENOUGH_DESCENT * length[trying] * slope[trying] + rounding
        good = found <= bound
        new_value[trying[good]], new_gradient[trying[good]] = found[good], found_gradient[good]
        trying = trying[~good]
        if not len(trying):
            break
        length[trying] /= 2
    moved = torch.ones(len(x), dtype=torch.bool)
    moved[trying] = False
    length[trying] = 0.0
    return length[:, None] * direction, new_value, new_gradient, moved


class _Memory:
    """The last steps of every problem and how they changed its gradient, and the direction that follows from them."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []
        self.changes: list[Tensor] = []

    def keep(self, going: Tensor) -> None:
        self.steps = [step[going] for step in self.steps]
        self.changes = [change[going] for change in self.changes]

    def add(self, step: Tensor, change: Tensor) -> None:
        self.steps, self.changes = [*self.steps[1 - HISTORY :], step], [*self.changes[1 - HISTORY :], change]

    def direction(self, gradient: Tensor) -> Tensor:
        """Minus the estimated inverse Hessian times the gradient (Nocedal & Wright, algorithm 7.4)."""
        if not self.steps:
            return -2.0 * gradient  # the Hessian is at most half the identity
        curvature = [_dot(step, change) for step, change in zip(self.steps, self.changes, strict=True)]
        # a problem whose step was lost to rounding skips that pair
        inverse = [torch.where(c > 0, 1 / c.clamp(min=1e-30), 0.0) for c in curvature]
        out, shares = gradient.clone(), []
        for step, change, scale in reversed(list(zip(self.steps, self.changes, inverse, strict=True))):
            share = scale * _dot(step, out)
            out -= share[:, None] * change
            shares.append(share)
        size = curvature[-1] / _dot(self.changes[-1], self.changes[-1]).clamp(min=1e-30)
        out *= torch.where(curvature[-1] > 0, size, 2.0)[:, None]
        for step, change, scale, share in zip(self.steps, self.changes, inverse, reversed(shares), strict=True):
            out += (share - scale * _dot(change, out))[:, None] * step
        return -out


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).sum(1)


class _Whitened:
    """The objective of every problem and its gradient, in coordinates in which the Hessian is at most half of I.

    Standardised weights A = U diag(1 / sqrt(values + 2 penalty)) V, with U and values of the training set's
    correlation matrix; x = (V, intercepts of centred features), flat.
    """

    def __init__(self, problems: Problems):
        self.problems = problems
        sets, of = problems.sets, problems.set_of
        self.penalty = _penalty_of_both(problems).to(problems.rows.dtype)
        self.root = (sets.values[of] + 2 * self.penalty[:, None]).rsqrt()  # [F, D]
        self.vectors, self.mean, self.scale, self.rows = sets.vectors[of], sets.mean[of], sets.scale[of], sets.rows[of]
        self.member = sets.member[of]
        self.shape = (problems.classes, problems.rows.chunks[0].shape[1])

    def zeros(self) -> Tensor:
        classes, features = self.shape
        return torch.zeros(len(self.penalty), classes * (features + 1), dtype=self.problems.rows.dtype)

    def pack(self, weights: Tensor, intercepts: Tensor) -> Tensor:
        return torch.cat([((weights @ self.vectors) / self.root[:, None]).flatten(1), intercepts], 1)

    def unpack(self, x: Tensor, of: Tensor | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Standardised weights [F, K, D] and the intercepts of centred features [F, K]."""
        classes, features = self.shape
        V, intercepts = x[:, : classes * features].unflatten(1, (classes, features)), x[:, classes * features :]
        return (V * self.root[of][:, None]) @ self.vectors[of].mT, intercepts

    def value_and_gradient(self, x: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
        """Of the problems `of`, at x: [F], in float64, and [F, P]."""
        classes, features = self.shape
        V = x[:, : classes * features].unflatten(1, (classes, features))
        standard, intercepts = self.unpack(x, of)
        mean, scale, root = self.mean[of][:, None], self.scale[of][:, None], self.root[of][:, None]
        weights = standard / scale
        loss, by_weight, by_intercept = self._over_rows(weights, intercepts - (weights * mean).sum(-1), of)
        rows = self.rows[of]
        by_standard = (by_weight - by_intercept[:, :, None] * mean) / (scale * rows[:, None, None])
        by_V = (by_standard @ self.vectors[of]) * root + self.penalty[of][:, None, None] * root.square() * V
        shrinkage = self.penalty[of].double() * (V * root).double().square().sum((1, 2)) / 2
        return loss / rows.double() + shrinkage, torch.cat([by_V.flatten(1), by_intercept / rows[:, None]], 1)

    def _over_rows(self, weights: Tensor, intercepts: Tensor, of: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Summed loss [F] in nats, and its gradient by weights and intercepts, each over its own training rows."""
        problems, (classes, _) = self.problems, self.shape
        loss = torch.zeros(len(of), dtype=torch.float64)
        by_weight, by_intercept = torch.zeros_like(weights), torch.zeros_like(intercepts)
        for chunk, rows, X in problems.rows.pieces():
            here = self.member[of, chunk].nonzero()[:, 0]
            if not len(here):
                continue
            truth = problems.labels[chunk][problems.target_of[of[here]], rows][:, None]  # [F, 1, R]
            scores = torch.addmm(intercepts[here].reshape(-1, 1), weights[here].flatten(0, 1), X.mT)
            scores = scores.unflatten(0, (len(here), classes))
            log_total = scores.logsumexp(1, keepdim=True)
            loss[here] += (log_total - scores.gather(1, truth)).sum(-1, dtype=torch.float64)[:, 0]
            residual = scores.sub_(log_total).exp_()
            residual.scatter_add_(1, truth, residual.new_full((1, 1, 1), -1.0).expand_as(truth))
            by_weight[here] += (residual.flatten(0, 1) @ X).unflatten(0, (len(here), classes))
            by_intercept[here] += residual.sum(-1)
        return loss, by_weight, by_intercept


def _penalty_of_both(problems: Problems) -> Tensor:
    """With two classes scikit-learn penalises the one difference of coefficients: half the sum of two squares."""
    return problems.penalty * 2 if problems.classes == 2 else problems.penalty
