"""Does the model use what a probe reads? The probe's directions are removed from mixing, and random ones beside it.

A probe shows that a label can be read, not that the model reads it. Here the forward pass runs with Q(i) (or K(j)) held
at its mean along the probe's directions, see probes.interventions.directions, and what the model loses stands beside
what it loses when as many random directions go.
Axes: B batch, T position, X entry of a matrix (source * heads + target), K direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from model import Engine, HookedDCFormer
from model.mixing import side_part
from model.site_mixing import one_index
from model.taps import LayerActivations
from probes.examples import Example, batches
from probes.interventions import WithoutDirections
from probes.interventions.directions import as_matrices
from probes.measures import MEASURES
from probes.sweeps import Cell, sweep

COLUMNS = {
    "removed": "probe, random (drawn uniformly), or random_like_mixing (drawn from the covariance of the part)",
    "draw": "number of the random draw, 0 for the probe",
    "share": "of the part's variance over all tokens of the examples, what lies along the removed directions",
    "measure": "of probes.measures",
    "value": "under the change",
    "intact": "without it",
    "change": "value - intact",
    "low": "lower end of the bootstrap interval of the change over sequences",
    "high": "upper end",
    "sequences": "how many counted",
    "p": "of the probe's row: share of uniform draws, itself counted, that lose at least as much",
    "p_like_mixing": "the same against draws from the covariance",
}
"""Of the result, and what they mean."""
RANDOM = ("random", "random_like_mixing")


@dataclass(frozen=True)
class PartMoments:
    """Of Q or K at one layer and site over the tokens of some examples. mean: [X]. covariance: [X, X]. float64, CPU."""

    mean: Tensor
    covariance: Tensor

    def share(self, basis_KX: Tensor) -> float:
        """Of the variance, what lies along orthonormal directions; 0 where nothing varies."""
        total = float(self.covariance.trace())
        along = float(torch.einsum("kx,xy,ky->", basis_KX, self.covariance, basis_KX))
        return along / total if total else 0.0


def part_moments(engine: Engine, examples: Sequence[Example], layer: int, site: str, side: str) -> PartMoments:
    """Run the examples and take the moments of one side's part of M over all their tokens, padding apart."""
    size = engine.cfg.n_heads**2
    first, second = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    tokens = 0

    def add(at: LayerActivations) -> None:
        nonlocal tokens
        if at.layer != layer:
            return
        part_BTX = side_part(at.mixing[site], side).flatten(2).double().cpu()
        rows = part_BTX.flatten(0, 1) if at.key_mask is None else part_BTX[at.key_mask.cpu()]
        first.add_(rows.sum(0))
        second.add_(rows.mT @ rows)
        tokens += len(rows)

    with engine.tapped(add), torch.no_grad():
        for batch in batches(examples, 8, str(engine.cfg.device)):
            engine.residual(batch.tokens, batch.mask, stop_at_layer=layer + 1)
    mean = first / tokens
    return PartMoments(mean, second / tokens - torch.outer(mean, mean))


def probe_directions(coefficients: ArrayLike) -> Tensor:
    """The directions that a linear probe reads, [K, feature]: its coefficients less their mean over classes.

    Args:
        coefficients: coef_ of a LinearProbe, [class, feature], or of a probe of numbers, [feature]. Adding the same to
            every class changes no prediction, so the mean is no direction of the probe.
    """
    given = torch.as_tensor(np.atleast_2d(np.asarray(coefficients)), dtype=torch.float64)
    return given - given.mean(0) if len(given) > 1 else given


def probe_patterns(coefficients: ArrayLike, X: ArrayLike) -> Tensor:
    """The directions along which features move with what a linear probe reads, [K, feature].

    A probe's own direction is a filter: it may lie where features hardly vary, to cancel what disturbs it. The
    covariance of the features times it says where the label shows (Haufe et al. 2014, NeuroImage 87).

    Args:
        X: features of any tokens, [token, feature].
    """
    values = torch.as_tensor(np.asarray(X), dtype=torch.float64)
    centred = values - values.mean(0)
    return probe_directions(coefficients) @ (centred.mT @ centred / len(values))


def causal_check(
    source: HookedDCFormer | Engine,
    examples: Sequence[Example],
    directions: ArrayLike,
    *,
    layer: int,
    site: str,
    side: str = "query",
    measures: Sequence[str] = ("loss", "kl"),
    draws: int = 20,
    hold: str = "mean",
    batch_size: int = 8,
    confidence: float | None = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Remove a probe's directions from a layer's mixing, and as many random ones.

    Args:
        directions: [H*H] or [K, H*H] (entry source * H + target) of the query part Q(i) or key part K(j); see
            probe_directions and probe_patterns. Their span is removed, so lengths do not count.
        measures: of probes.measures. draws: of each kind of random directions; the smallest p is 1 / (draws + 1).
        hold: "mean": the projection becomes its mean over the examples, so that only what varies from token to token
            goes, which is all that a probe can read; "zero": it becomes 0.
        confidence: of the intervals; None = none are computed.
    Returns:
        One row for each removal and measure: COLUMNS.
    Raises:
        ValueError: no examples, a direction of another length, a layer, site or side that the model has not, or
            nothing that varies there.
    """
    engine = source if isinstance(source, Engine) else Engine(source)
    given = as_matrices(torch.as_tensor(np.asarray(directions)), engine.cfg.n_heads)
    layer = _check(engine, examples, given, layer, site, side, draws, hold)
    moments = part_moments(engine, examples, layer, site, side)
    if not bool(moments.covariance.diagonal().any()):
        raise ValueError(f"The {side} part at layer {layer}, site {site!r} is the same at every token. Choose another.")
    mean = moments.mean.reshape(given.shape[1:]) if hold == "mean" else None
    probe = WithoutDirections(layer, site, side, given, mean)
    removed = {("probe", 0): probe} | {
        (kind, draw): WithoutDirections(layer, site, side, matrices, mean)
        for kind, matrices, draw in _random(probe.basis, moments, engine.cfg.groups, draws, seed)
    }
    cells = [Cell({"removed": kind, "draw": draw}, change) for (kind, draw), change in removed.items()]
    table = sweep(engine, examples, cells, measures, batch_size=batch_size, confidence=confidence, progress=progress)
    shares = {place: moments.share(change.basis.flatten(1)) for place, change in removed.items()}
    table["share"] = [shares[place] for place in zip(table["removed"], table["draw"], strict=True)]
    for kind, column in zip(RANDOM, ("p", "p_like_mixing"), strict=True):
        table[column] = [_p(table, row, kind) for _, row in table.iterrows()]
    return table[list(COLUMNS)]


def _random(basis: Tensor, moments: PartMoments, groups: int, draws: int, seed: int) -> list[tuple[str, Tensor, int]]:
    """Directions as many as the probe's: from the sphere, and from the part's own covariance."""
    generator = torch.Generator().manual_seed(seed)
    K, heads, _ = basis.shape
    size = heads // groups
    inside = torch.block_diag(*[torch.ones(size, size, dtype=torch.float64)] * groups)
    values, vectors = torch.linalg.eigh(moments.covariance)
    spread = vectors * values.clamp(min=0).sqrt()
    drawn = []
    for draw in range(draws):
        noise = torch.randn(K, heads * heads, generator=generator, dtype=torch.float64)
        drawn.append((RANDOM[0], noise.unflatten(1, (heads, heads)) * inside, draw))
        drawn.append((RANDOM[1], (noise @ spread.mT).unflatten(1, (heads, heads)) * inside, draw))
    return drawn


def _p(table: pd.DataFrame, row: pd.Series, kind: str) -> float:
    """The share of draws, the probe among them, under which the model loses at least as much as under the probe."""
    if row["removed"] != "probe":
        return float("nan")
    worse = -1 if MEASURES[row["measure"]].better == "higher" else 1
    others = table[(table["removed"] == kind) & (table["measure"] == row["measure"])]["change"] * worse
    return float((1 + (others >= row["change"] * worse).sum()) / (1 + len(others)))


def _check(
    engine: Engine, examples: Sequence[Example], given: Tensor, layer: int, site: str, side: str, draws: int, hold: str
) -> int:
    """The layer counted from 0, if all is well."""
    if not examples:
        raise ValueError("No examples were given. Give at least one.")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}: without random directions there is no comparison.")
    if hold not in ("mean", "zero"):
        raise ValueError(f"hold must be 'mean' or 'zero', got {hold!r}.")
    WithoutDirections(layer, site, side, given).check(engine.cfg)
    return one_index(layer, engine.cfg.n_layers, "layer")
