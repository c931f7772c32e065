"""Evaluation while training: the loss of held-out rows, and whatever the user's own function measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from model.training.config import EVALUATION_SEED, TrainConfig
from model.training.data import Given, TokenSource, batch, open_source
from model.training.fields import named_function
from model.training.step import Trainer, weighted_loss


class Evaluation:
    """What a run's configuration asks to be evaluated; the same rows every time and in every run."""

    def __init__(self, config: TrainConfig, given: Given):
        self.source: TokenSource | None = None
        self.measure: Callable[..., Any] | None = None
        self.rows, self.at_a_time = config.evaluation_rows, max(1, config.rows // config.accumulate)
        if config.evaluation is not None:
            self.source = open_source(config.evaluation, given, "evaluation")
        if config.evaluator is not None:
            self.measure = named_function(config.evaluator, "evaluator")

    @torch.no_grad()
    def __call__(self, trainer: Trainer) -> dict[str, float]:
        """Named numbers; {} where nothing was asked for. Every process must call it."""
        trainer.model.eval()
        try:
            found = {} if self.source is None else {"held_out_loss": self._held_out_loss(trainer, self.source)}
            return found if self.measure is None else found | _numbers(self.measure(trainer.model))
        finally:
            trainer.model.train()

    def _held_out_loss(self, trainer: Trainer, source: TokenSource) -> float:
        """Weighted mean loss of the held-out rows, in nats per token."""
        ranks = trainer.ranks
        own = ranks.share(self.rows, "evaluation_rows")
        at_a_time = max(1, self.at_a_time // ranks.world)
        sums = torch.zeros(2, dtype=torch.float64, device=ranks.device)
        for start in range(own.start, own.stop, at_a_time):
            some = range(start, min(start + at_a_time, own.stop))
            tokens, weights = (
                part.to(ranks.device) for part in batch(source, EVALUATION_SEED, 0, some, self.rows)
            )  # fmt: skip
            sums[0] += weighted_loss(trainer, trainer.model, tokens, weights)
            sums[1] += weights[:, 1:].double().sum()
        loss, weight = ranks.summed(sums).tolist()
        if weight <= 0:
            raise ValueError("Every held-out token has weight 0. Give weights above 0 to what should be evaluated.")
        return loss / weight


def _numbers(found: Any) -> dict[str, float]:
    if not isinstance(found, dict):
        raise ValueError(f"The evaluator must return a dict of numbers, got {type(found).__name__}.")
    return {str(name): float(value) for name, value in found.items()}
