"""Which weights a result was made with: one hash over all of a model's tensors."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from model import HookedDCFormer


def feed_weights(digest: Any, model: HookedDCFormer) -> None:
    """Every tensor's name and bits into a running hash, one tensor at a time."""
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)


def weights_hash(model: HookedDCFormer) -> str:
    """sha256 of the names and bits of all tensors: the same weights in another dtype have another hash."""
    digest = hashlib.sha256()
    feed_weights(digest, model)
    return digest.hexdigest()
