"""One update: weighted loss over the global batch, gradients in parts, clip, AdamW."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from model.training.config import TrainConfig
from model.training.distributed import Ranks
from model.training.recipe import make_optimizer, make_scheduler
from model.transformer import HookedDCFormer


class NotFiniteError(ValueError):
    """A loss or gradient is NaN or infinite; the weights were not touched."""


@dataclass
class Trainer:
    """All that an update changes or needs.

    model: the model itself; forward: what DDP made of it (without DDP the same object).
    """

    model: HookedDCFormer
    forward: nn.Module
    optimizer: Optimizer
    scheduler: LambdaLR
    ranks: Ranks
    clip: float
    bfloat16: bool

    def precision(self) -> AbstractContextManager[object]:
        return torch.autocast(self.ranks.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()


@dataclass(frozen=True)
class Update:
    """What one update saw: the loss before it in nats per weighted token, and the gradient's norm before the clip."""

    loss: float
    gradient_norm: float


def make_trainer(model: HookedDCFormer, config: TrainConfig, ranks: Ranks) -> Trainer:
    """A model on the run's device, ready for train_step."""
    model = model.to(ranks.device).train()
    forward = ranks.wrapped(model)
    # after sharding, which puts other parameters in the place of the model's
    optimizer = make_optimizer(model, config)
    bfloat16 = config.dtype == "bfloat16" or (config.dtype == "auto" and ranks.device.type == "cuda")
    return Trainer(model, forward, optimizer, make_scheduler(optimizer, config), ranks, config.clip, bfloat16)


def train_step(trainer: Trainer, tokens: Tensor, weights: Tensor, accumulate: int = 1) -> Update:
    """One update on this process's rows of a step.

    The loss is the weighted mean over the rows of all processes, however they are shared or cut into parts.

    Args:
        tokens, weights: [row, pos], on any device.
        accumulate: parts into which the rows are cut, one forward and backward pass each.
    Raises:
        NotFiniteError: the loss or the gradient is not finite; nothing was changed.
        ValueError: no token of the step has any weight.
    """
    tokens, weights = (part.to(trainer.ranks.device) for part in (tokens, weights))
    total = trainer.ranks.summed(weights[:, 1:].double().sum())
    if not total > 0:
        raise ValueError("Every token of a step has weight 0. Give weights above 0 to what should be learned.")
    trainer.optimizer.zero_grad()
    loss = torch.zeros((), dtype=torch.float64, device=trainer.ranks.device)
    parts = list(zip(tokens.chunk(accumulate), weights.chunk(accumulate)))
    for number, (some, weight) in enumerate(parts, start=1):
        with trainer.ranks.gradients(trainer.forward, exchange=number == len(parts)):
            part = weighted_loss(trainer, trainer.forward, some, weight) / total.float()
            # processes average their gradients, where the sum is wanted
            (part * trainer.ranks.world).backward()
        loss += part.detach()
    update = Update(trainer.ranks.summed(loss).item(), _clip(trainer))
    _refuse_not_finite(update)
    trainer.optimizer.step()
    trainer.scheduler.step()
    return update


def weighted_loss(trainer: Trainer, forward: nn.Module, tokens: Tensor, weights: Tensor) -> Tensor:
    """Sum of each next token's loss in nats times its weight."""
    with trainer.precision():
        loss_per_token = forward(tokens, return_type="loss", loss_per_token=True)
    return (loss_per_token * weights[:, 1:]).sum()


def _clip(trainer: Trainer) -> float:
    norm = nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.clip)
    return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()


def _refuse_not_finite(update: Update) -> None:
    if not math.isfinite(update.loss):
        raise NotFiniteError(f"The loss is {update.loss}")
    if not math.isfinite(update.gradient_norm):
        raise NotFiniteError(f"The norm of the gradient is {update.gradient_norm}")
