"""The paper's recipe: the optimizer's groups and the learning rate of every step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from model.training.config import TrainConfig

BETAS = (0.9, 0.95)


def rate_factor(step: int, steps: int, warm_up: float, final_rate: float) -> float:
    """The learning rate of one update as a share of the peak.

    It rises linearly over the first warm_up * steps updates, the last of which has the peak, and falls along a
    cosine to final_rate at the last update.

    Args:
        step: updates done before this one.
    """
    rising = round(warm_up * steps)
    if step < rising:
        return (step + 1) / rising
    progress = min(1.0, (step + 1 - rising) / max(1, steps - rising))
    return final_rate + (1 - final_rate) * 0.5 * (1 + math.cos(math.pi * progress))


def is_mixing(name: str) -> bool:
    """Does the parameter of this name mix heads?"""
    return ".mix_" in name or name.endswith("static_blocks")


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], rate: float, mixing_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for AdamW: mixing parameters apart from the others, matrices (decayed) apart from vectors (not)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        groups.setdefault((is_mixing(name), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": members,
            "lr": rate * mixing_rate if mixing else rate,
            "weight_decay": weight_decay if matrix else 0.0,
        }
        for (mixing, matrix), members in groups.items()
    ]


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    groups = parameter_groups(
        model.named_parameters(), config.peak_rate, config.mixing_rate, config.weight_decay
    )  # fmt: skip
    return torch.optim.AdamW(groups, betas=BETAS)


def make_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig) -> LambdaLR:
    """Stepped once after every update; a pure function of the number of updates."""
    return LambdaLR(optimizer, lambda step: rate_factor(step, config.steps, config.warm_up, config.final_rate))


def log_spaced_steps(count: int, steps: int) -> list[int]:
    """Up to `count` different steps from 1 to `steps`, each about the same factor after the one before."""
    count = min(count, steps)
    if count < 2:
        return [steps] * count
    found: list[int] = []
    for number in range(count):
        wanted = round(steps ** (number / (count - 1)))
        found.append(max(wanted, found[-1] + 1 if found else 1))
    return found
