"""Effective rank: how many directions a set of vectors really takes up."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.special import entr

SOURCE = "Source: Roy and Vetterli 2007 (EUSIPCO)."


def effective_rank(products: Tensor) -> float:
    """exp of the entropy of the singular values over their sum; 0 where all are 0.

    Args:
        products: the Gram or second-moment matrix of the vectors, float64 [n, n]: its eigenvalues are the squares.
    """
    squares = torch.linalg.eigvalsh(products)
    # rounding leaves eigenvalues near eps, whose square roots would count
    noise = squares.abs().max() * len(squares) * torch.finfo(squares.dtype).eps
    values = squares.masked_fill(squares <= noise, 0.0).sqrt()
    return float(entr(values / values.sum()).sum().exp()) if values.any() else 0.0
