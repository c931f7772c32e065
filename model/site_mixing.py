"""The mixing matrices of one layer and site of one prompt, built when someone looks at them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.mixing import (
    Mixing,
    base_matrix,
    branches,
    distance_from_identity,
    matrix,
    query_distances_from_identity,
    side_part,
)

Positions = int | slice | Sequence[int] | Tensor | None
"""One position, a slice of them, or several in any order; None = all."""


class SiteMixing:
    """The mixing matrices of one layer and site for every pair of tokens of a prompt, built on demand."""

    def __init__(self, mixing: Mixing, positions: int, visible_keys: int | None):
        self.factors = mixing
        self.positions, self.visible_keys = positions, visible_keys

    def matrix(self, query: int, key: int) -> Tensor:
        """M(query, key), [H, H], source x target, base included; the identity where nothing is mixed."""
        return matrix(self.factors, *self._at(query, key)).float()

    def branches(self, query: int, key: int) -> dict[str, Tensor]:
        """The five summands of matrix(query, key), each [H, H]; a branch the model lacks is all zeros.

        "Branch" describes the parametrisation: a constant moves freely between base, query and key part.
        """
        return {name: part.float() for name, part in branches(self.factors, *self._at(query, key)).items()}

    def query_part(self, query: int) -> Tensor:
        """Q(query) = query_lowrank + query_gate, [H, H]."""
        return self._part("query", query)

    def key_part(self, key: int) -> Tensor:
        """K(key) = key_lowrank + key_gate, [H, H]."""
        return self._part("key", key)

    def base(self) -> Tensor:
        """The constant summand, [H, H]: the identity, plus W in models with static mixing."""
        return base_matrix(self.factors).float()

    def row(self, query: int) -> Tensor:
        """M(query, j) for every key j that the query sees, oldest first, [key, H, H]."""
        query, _ = self._at(query, 0)
        first = 0 if self.visible_keys is None else max(0, query - self.visible_keys + 1)
        constant = self.base() + self._part("query", query)
        if self.factors.key_gate is None:
            return constant.expand(query + 1 - first, -1, -1).clone()
        return constant + side_part(self.factors.cut(keys=slice(first, query + 1)), "key")[0].float()

    def distance_from_identity(self) -> Tensor:
        """How far each target head's column of M is from the identity's over visible pairs, [H]; 0 = unmixed.

        sqrt of the mean squared Euclidean length of M(i, j)[:, h] - e_h.
        """
        if self.factors.is_identity:
            return torch.zeros(self.factors.n_heads)
        return distance_from_identity(self.factors, self.visible_keys)[0].float()

    def query_distances_from_identity(self) -> Tensor:
        """The same of each query's row alone, over the keys that it sees, [pos, H]."""
        if not self.factors.factors():  # the same at every pair
            return self.distance_from_identity().expand(self.positions, -1).clone()
        return query_distances_from_identity(self.factors, self.visible_keys)[0].float()

    def _part(self, side: str, position: int) -> Tensor:
        at = one_index(position, self.positions, side)
        if getattr(self.factors, f"{side}_gate") is None:
            return torch.zeros(self.factors.n_heads, self.factors.n_heads)
        return side_part(self.factors.cut(slice(at, at + 1), slice(at, at + 1)), side)[0, 0].float()

    def _at(self, query: int, key: int) -> tuple[int, int]:
        return one_index(query, self.positions, "query"), one_index(key, self.positions, "key")


def one_index(index: int, length: int, name: str) -> int:
    if not -length <= index < length:
        raise ValueError(f"{name.capitalize()} {index} does not exist: there are {length}, 0 to {length - 1}.")
    return index % length


def index_list(chosen: Positions, length: int, name: str) -> Tensor:
    """Any way of naming positions or heads, as indices in the order given."""
    if chosen is None or isinstance(chosen, slice):
        index = torch.arange(length)[chosen or slice(None)] if _runs_forward(chosen) else torch.arange(length)[:0]
    else:
        given = [chosen] if isinstance(chosen, int) else [int(i) for i in chosen]
        index = torch.tensor([one_index(i, length, name) for i in given], dtype=torch.long)
    if not len(index):
        raise ValueError(f"No {name} was chosen. There are {length}, 0 to {length - 1}.")
    return index


def _runs_forward(chosen: slice | None) -> bool:
    return chosen is None or chosen.step is None or chosen.step > 0
