"""The cheap estimate of a sweep: gradient times change of the mixing matrices, all cells from one backward pass.

A measure's gradient with respect to every token's part of every mixing matrix, dL/dQ(i) and dL/dK(j), is found once;
what a change does to the measure is then estimated to first order, sum of gradient * (changed - intact). Exact where
the measure is linear in the mixing; wrong where a softmax saturates or branches make up for one another: `agreement`
says how far it can be trusted. After attribution patching (Nanda 2023; Syed et al. 2023, arXiv 2310.10348).

Axes: B batch, T position, N head (source), M head (target), G group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor
from tqdm.auto import tqdm

from model import HookedDCFormer
from model.mixing import Mixing, base_matrix, side_part
from model.taps import LayerActivations
from probes.examples import Example, ExampleBatch, batches
from probes.interventions import Change, Intervention
from probes.measures import Measure, Predictions, known_measures, put
from probes.per_sequence import PerSequence
from probes.sweeps import Cell

SIDES = ("query", "key")
SMOOTH = ("loss", "logit_difference")
"""Measures with a useful gradient at the intact model: that of "kl" is 0 there, "accuracy" has none."""


def attribute(
    model: HookedDCFormer,
    examples: Sequence[Example],
    cells: Sequence[Cell],
    measure: str = "loss",
    *,
    batch_size: int = 8,
    confidence: float | None = 0.95,
    progress: bool = False,
) -> pd.DataFrame:
    """Estimate what a sweep over the same cells would find.

    Returns:
        One row for each cell: the labels, measure, estimate (of the change), low and high (bootstrap interval over
        sequences).
    Raises:
        ValueError: a measure without a gradient, a cell that patches queries, keys or values or that depends on the
            examples, and what `sweep` refuses.
    """
    (chosen,) = known_measures([measure])
    if measure not in SMOOTH:
        raise ValueError(f"{measure!r} has no useful gradient at the intact model. Choose from {', '.join(SMOOTH)}.")
    if not examples or not cells:
        raise ValueError(f"{len(examples)} examples and {len(cells)} cells were given. Give at least one of each.")
    changes = [_mixing_change(cell, model) for cell in cells]
    found = [PerSequence(np.zeros(len(examples)), np.zeros(len(examples))) for _ in cells]
    groups = list(batches(examples, batch_size, str(model.cfg.device)))
    for batch in tqdm(groups, desc="attribution", unit="batch", disable=not progress):
        gradients = mixing_gradients(model, batch, chosen)
        for change, into in zip(changes, found, strict=True):
            put(into, batch, gradients.estimate(model, change).tolist(), gradients.counts.tolist())
    rows = []
    for cell, own in zip(cells, found, strict=True):
        low, high = (float("nan"),) * 2 if confidence is None else own.interval(confidence)
        rows.append({**cell.labels, "measure": measure, "estimate": own.mean, "low": low, "high": high})
    return pd.DataFrame(rows)


def _mixing_change(cell: Cell, model: HookedDCFormer) -> Change:
    """The change of a cell, if it is one of mixing that the model can have."""
    change = cell.change
    parts = change.parts() if isinstance(change, Change) else ()
    if not isinstance(change, Change) or any(
        not isinstance(part, Intervention) or part.what not in (None, ["mixing"]) for part in parts
    ):
        raise ValueError(
            f"The cell {cell.key} changes more than mixing, or each example in its own way. Gradient attribution "
            "estimates changes of mixing alone; use sweep."
        )
    change.check(model.cfg)
    return change


# -- gradients -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MixingGradients:
    """Gradients of a measure's sum with respect to every token's part of M, and the mixing they belong to.

    gradients: (layer, site, side) -> [batch, pos, H, H], source x target: dL/dQ(i) for side "query", dL/dK(j) for
        "key". A constant change of M acts like a change of every Q(i).
    intact: by layer, what the layers attended with.
    counts: how many values of the measure each row has, [batch].
    """

    gradients: Mapping[tuple[int, str, str], Tensor]
    intact: Mapping[int, LayerActivations]
    counts: Tensor

    def estimate(self, model: HookedDCFormer, change: Change) -> Tensor:
        """First-order change of the measure's sum in each row, float64 [batch]."""
        tap = change.tap(model)
        total = torch.zeros(len(self.counts), dtype=torch.float64)
        for layer in range(change.first_layer(model.cfg), model.cfg.n_layers):
            at = _again(self.intact[layer])
            tap(at)
            for site in model.cfg.mixed_sites:
                old, new = self.intact[layer].mixing[site], at.mixing[site]
                if new is not old:
                    total += self._of_site(layer, site, old, new).double().cpu()
        return total

    def _of_site(self, layer: int, site: str, old: Mixing, new: Mixing) -> Tensor:
        query = self.gradients[layer, site, "query"]
        constant = base_matrix(new, like=query) - base_matrix(old, like=query)
        total = torch.einsum("btnm,nm->b", query, constant)
        for side in SIDES:
            change = _part(new, side) - _part(old, side)
            if isinstance(change, Tensor):
                total = total + (self.gradients[layer, site, side] * change).sum((1, 2, 3))
        return total


def mixing_gradients(model: HookedDCFormer, batch: ExampleBatch, measure: Measure) -> MixingGradients:
    """Run a batch forward and backward, with a zero matrix added to every token's part of M, whose gradient is kept."""
    leaves: dict[tuple[int, str, str], Tensor] = {}
    intact: dict[int, LayerActivations] = {}

    def add_zeros(at: LayerActivations) -> None:
        intact[at.layer] = _detached(at)
        for site in model.cfg.mixed_sites:
            for side in SIDES:
                leaf = torch.zeros(*at.q.shape[:2], model.cfg.n_heads, model.cfg.n_heads, dtype=at.q.dtype,
                                   device=at.q.device, requires_grad=True)  # fmt: skip
                leaves[at.layer, site, side] = leaf
                at.mixing[site] = _with_part(at.mixing[site], side, leaf)

    with torch.enable_grad(), model.tapped(add_zeros):
        resid = model(batch.tokens, attention_mask=batch.mask, stop_at_layer=model.cfg.n_layers)
        logits = model.unembed(model.ln_final(resid[batch.rows, batch.places]))
        predicted = Predictions(logits if logits.dtype == torch.float64 else logits.float(), batch)
        values, rows = measure.values(predicted, predicted)
        found = torch.autograd.grad(values.sum(), list(leaves.values()))
    counts = torch.zeros(len(batch.tokens)).index_add_(0, rows.cpu(), torch.ones(len(rows)))
    return MixingGradients(dict(zip(leaves, found, strict=True)), intact, counts)


def _with_part(mixing: Mixing, side: str, part_BTNM: Tensor) -> Mixing:
    """M with a matrix more for every token of one side: as many channels as a group has heads."""
    batch, positions, heads, _ = part_BTNM.shape
    size = heads // mixing.groups
    blocks = torch.stack(
        [part_BTNM[..., g : g + size, g : g + size] for g in range(0, heads, size)], dim=2
    )  # [B, T, G, N, M]
    identity = torch.eye(size, dtype=part_BTNM.dtype, device=part_BTNM.device).expand_as(blocks)
    down, up = (identity, blocks) if mixing.groups > 1 else (identity[:, :, 0], blocks[:, :, 0])
    old_down, old_up, old_gate = (getattr(mixing, f"{side}_{kind}") for kind in ("down", "up", "gate"))
    if old_gate is None:
        return mixing.with_factors(
            {f"{side}_down": down, f"{side}_up": up, f"{side}_gate": part_BTNM.new_zeros(batch, positions, heads)}
        )
    return mixing.with_factors(
        {f"{side}_down": torch.cat([old_down, down], -2), f"{side}_up": torch.cat([old_up, up], -2)}
    )


def _part(mixing: Mixing, side: str) -> Tensor | float:
    return side_part(mixing, side) if getattr(mixing, f"{side}_gate") is not None else 0.0


def _detached(at: LayerActivations) -> LayerActivations:
    mixing = {site: mixing.map(lambda factor: factor.detach()) for site, mixing in at.mixing.items()}
    return LayerActivations(
        at.layer, at.q.detach(), at.k.detach(), at.v.detach(), mixing, at.key_mask, at.past, at.whole
    )


def _again(at: LayerActivations) -> LayerActivations:
    """The same activations in a new object, for a tap to change."""
    return LayerActivations(at.layer, at.q, at.k, at.v, dict(at.mixing), at.key_mask, at.past, at.whole)


# -- agreement with the real sweep -----------------------------------------------------------------


def agreement(estimates: pd.DataFrame, swept: pd.DataFrame, top: int = 10) -> dict[str, float]:
    """How far the estimates of `attribute` tell what `sweep` found, over the cells that are in both.

    Returns:
        cells (how many), pearson and spearman (correlations of estimate and change), sign (share of cells with the
        same sign), ratio (least-squares slope through 0 of change on estimate: 1 = neither too large nor too small),
        and top (share of the `top` largest changes that are among the `top` largest estimates, by size).
    Raises:
        ValueError: fewer than 3 cells in common.
    """
    labels = [name for name in estimates.columns if name not in ("estimate", "low", "high")]
    both = estimates.merge(swept, on=labels, suffixes=("_estimate", ""))
    if len(both) < 3:
        raise ValueError(f"{len(both)} cells are in both tables, and agreement needs 3. Estimate what was swept.")
    guess, real = both.estimate.to_numpy(), both.change.to_numpy()
    largest = [set(np.argsort(-np.abs(x))[:top].tolist()) for x in (guess, real)]
    return {
        "cells": float(len(both)),
        "pearson": float(stats.pearsonr(guess, real).statistic),
        "spearman": float(stats.spearmanr(guess, real).statistic),
        "sign": float(np.mean(np.sign(guess) == np.sign(real))),
        "ratio": float((guess * real).sum() / (guess * guess).sum()),
        "top": len(largest[0] & largest[1]) / len(largest[1]),
    }
