"""What a change does to a model, as numbers with intervals: loss, divergence, logit difference, accuracy.

A measure gives a value for each counted token (or answer) of each sequence. Its value over many sequences is the mean
over all that counted, and its interval comes from resampling whole sequences: tokens of one sequence are not
independent of one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model import Engine, HookedDCFormer
from probes.examples import Example, ExampleBatch, batches
from probes.interventions import Change
from probes.per_sequence import PerSequence


@dataclass(frozen=True)
class Predictions:
    """Logits where something counts, [n, d_vocab] in at least float32, and the batch they belong to."""

    logits: Tensor
    batch: ExampleBatch


@dataclass(frozen=True)
class Measure:
    """A measure by name. better: "lower" or "higher", for people who read a table.

    of_change: it compares with the intact model, whose own value is 0.
    """

    name: str
    title: str
    unit: str
    better: str
    definition: str
    of_change: bool = False

    def values(self, changed: Predictions, intact: Predictions) -> tuple[Tensor, Tensor]:
        """(values [m], the row of the batch that each belongs to [m]).

        Raises:
            ValueError: the examples lack what this measure needs.
        """
        return _VALUES[self.name](changed, intact)


def _loss(changed: Predictions, intact: Predictions) -> tuple[Tensor, Tensor]:
    return F.cross_entropy(changed.logits, changed.batch.targets, reduction="none"), changed.batch.rows


def _divergence(changed: Predictions, intact: Predictions) -> tuple[Tensor, Tensor]:
    log_p, log_q = intact.logits.log_softmax(-1), changed.logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1), changed.batch.rows


def _logit_difference(changed: Predictions, intact: Predictions) -> tuple[Tensor, Tensor]:
    batch = changed.batch
    has = batch.contrasts >= 0
    if not bool(has.any()):
        raise ValueError(
            "These examples name no contrast tokens, which a logit difference needs. Make them with task_examples, or "
            "give Example(contrasts=...)."
        )
    logits, targets, contrasts = changed.logits[has], batch.targets[has], batch.contrasts[has]
    every = torch.arange(len(logits), device=logits.device)
    return logits[every, targets] - logits[every, contrasts], batch.rows[has]


def _accuracy(changed: Predictions, intact: Predictions) -> tuple[Tensor, Tensor]:
    batch = changed.batch
    right = changed.logits.argmax(-1) == batch.targets
    answers, owner = torch.stack([batch.rows, batch.answers], 1).unique(dim=0, return_inverse=True)
    wrong = torch.zeros(len(answers), device=right.device).index_add_(0, owner, (~right).float())
    return (wrong == 0).float(), answers[:, 0]


_VALUES = {"loss": _loss, "kl": _divergence, "logit_difference": _logit_difference, "accuracy": _accuracy}

MEASURES = {
    measure.name: measure
    for measure in (
        Measure("loss", "Loss", "nats per token", "lower", "Cross-entropy of each counted token, natural logarithm."),
        Measure("kl", "Divergence from the intact model", "nats per token", "lower",
                "KL(intact || changed) of the next-token distributions at each counted token; 0 = nothing changed.",
                of_change=True),
        Measure("logit_difference", "Logit difference", "logits", "higher",
                "Logit of the answer's first token minus that of its contrast."),
        Measure("accuracy", "Accuracy", "share of answers", "higher",
                "Share of answers each of whose tokens is the most likely one, given the right tokens before it."),
    )
}  # fmt: skip


def known_measures(names: Sequence[str]) -> list[Measure]:
    """Measures by name.

    Raises:
        ValueError: none, or an unknown one.
    """
    if not names:
        raise ValueError(f"No measure was named. Choose from {', '.join(MEASURES)}.")
    for name in names:
        if name not in MEASURES:
            raise ValueError(f"Unknown measure {name!r}. Choose from {', '.join(MEASURES)}.")
    return [MEASURES[name] for name in names]


# -- over sequences --------------------------------------------------------------------------------


def predictions(engine: Engine, resid_BTD: Tensor, batch: ExampleBatch) -> Predictions:
    """Logits at the counted tokens only: a large vocabulary would fill the memory with the rest."""
    here = batch.rows.to(resid_BTD.device), batch.places.to(resid_BTD.device)
    logits = engine.unembed(resid_BTD[here])
    return Predictions(logits if logits.dtype == torch.float64 else logits.float(), batch)


def row_sums(measure: Measure, changed: Predictions, intact: Predictions) -> tuple[list[float], list[float]]:
    """A measure's sums and counts for each row of a batch."""
    values, rows = measure.values(changed, intact)
    empty = torch.zeros(len(changed.batch.numbers), dtype=torch.float64)
    values, rows = values.double().cpu(), rows.cpu()
    counts = empty.index_add(0, rows, torch.ones_like(values))
    return empty.index_add(0, rows, values).tolist(), counts.tolist()


@torch.no_grad()
def measured(
    source: HookedDCFormer | Engine,
    examples: Sequence[Example],
    measures: Sequence[str] = ("loss",),
    change: Change | None = None,
    batch_size: int = 8,
) -> dict[str, PerSequence]:
    """Measures of a model, intact or under a change, over examples. For many changes use probes.sweeps.

    Raises:
        ValueError: no examples, an unknown measure, or a change that the model cannot have.
    """
    if not examples:
        raise ValueError("No examples were given. Give at least one.")
    engine = source if isinstance(source, Engine) else Engine(source)
    chosen = known_measures(measures)
    found = {measure.name: PerSequence(np.zeros(len(examples)), np.zeros(len(examples))) for measure in chosen}
    for batch in batches(examples, batch_size, str(engine.cfg.device)):
        intact = changed = predictions(engine, engine.residual(batch.tokens, batch.mask), batch)
        if change is not None:
            with change.applied(engine):
                changed = predictions(engine, engine.residual(batch.tokens, batch.mask), batch)
        for measure in chosen:
            put(found[measure.name], batch, *row_sums(measure, changed, intact))
    return found


def put(found: PerSequence, batch: ExampleBatch, sums: Sequence[float], counts: Sequence[float]) -> None:
    """Write a batch's numbers in their places among all sequences."""
    numbers = list(batch.numbers)
    found.sums[numbers], found.counts[numbers] = sums, counts
