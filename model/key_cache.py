"""What cached decoding remembers of earlier tokens: keys, values and the key side of both sites' factors."""

from __future__ import annotations

import torch
from torch import Tensor

from model.mixing import KEY_FACTORS, Mixing


class KeyCache:
    """The keys of one layer, growing up to a fixed capacity; room is made once, at the first step.

    Query factors are never kept: a query is used once. Per token and layer this holds 2 N K numbers for
    keys and values and, at rank 2, 10 H for the factors of the two sites.
    """

    def __init__(self, capacity: int):
        self.capacity, self.length = capacity, 0
        self._store: dict[str, Tensor] = {}

    def extend(self, k: Tensor, v: Tensor, sites: dict[str, Mixing]) -> tuple[Tensor, Tensor, dict[str, Mixing]]:
        """Add the new tokens' keys, values and key factors.

        Returns:
            Keys, values and both sites' mixing over all tokens so far; query factors stay those of the new tokens.
        Raises:
            ValueError: more tokens than the capacity.
        """
        new = {"k": k, "v": v}
        for site, mixing in sites.items():
            new |= {f"{site}.{name}": factor for name, factor in mixing.factors().items() if name in KEY_FACTORS}
        end = self.length + k.shape[1]
        if end > self.capacity:
            raise ValueError(f"The cache has room for {self.capacity} tokens, {end} were given.")
        for name, value in new.items():
            if name not in self._store:
                self._store[name] = value.new_empty(value.shape[0], self.capacity, *value.shape[2:])
            self._store[name][:, self.length : end] = value
        self.length = end
        whole = {name: self._store[name][:, :end] for name in new}
        merged = {}
        for site, mixing in sites.items():
            known = {name: whole[f"{site}.{name}"] for name in KEY_FACTORS if f"{site}.{name}" in whole}
            merged[site] = mixing.with_factors(known)
        return whole["k"], whole["v"], merged


def caches_for(n_layers: int, capacity: int) -> list[KeyCache]:
    """One empty cache a layer. Cached steps run without gradients: the store is written in place."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "Cached decoding writes its keys in place and has no gradient; run it under torch.no_grad()."
        )
    return [KeyCache(capacity) for _ in range(n_layers)]
