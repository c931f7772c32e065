"""What cached decoding remembers of earlier tokens: keys, values and the key side of both sites' factors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.graphs import Graphs
from model.mixing import KEY_FACTORS, Mixing


@dataclass(frozen=True)
class Seen:
    """The keys that new queries attend over, as composed_attention takes them.

    k, v: [batch, key, head, d_head]. pre, post: query factors of the new tokens, key factors of all keys here.
    query_start, visible_keys, key_mask: see composed_attention; they belong to this choice of keys.
    """

    k: Tensor
    v: Tensor
    pre: Mixing
    post: Mixing
    query_start: int
    visible_keys: int | None
    key_mask: Tensor | None


@dataclass(frozen=True)
class Place:
    """Where a step's one token goes among the slots of a cache, [1], and which slots it sees, bool [batch, slots]."""

    slot: Tensor
    seen: Tensor


def standing_positions(slots: int, latest: int | Tensor, device: torch.device) -> Tensor:
    """The position that stands in each slot once `latest` is written, [slots]; below 0 where none was yet.

    It is the latest one that leaves the slot's remainder: position p is written to slot p % slots.
    """
    return latest - (latest - torch.arange(slots, device=device)) % slots


def place_among(slots: int, at: Tensor, batch: int, key_mask: Tensor | None) -> Place:
    """The place of the token at position `at`, a tensor [1]: nothing else depends on its value.

    Args:
        key_mask: bool [batch, capacity], False on padding; None = no padding.
    """
    positions = standing_positions(slots, at, at.device)
    seen = (positions >= 0).expand(batch, -1)
    if key_mask is not None:
        seen = seen & key_mask[:, positions.clamp(min=0)]
    return Place(at % slots, seen.contiguous())


class KeyCache:
    """The keys of one layer: all of them up to a capacity or, in a local layer, a ring of the last visible ones.

    Query factors are never kept: a query is used once. Per token and layer this holds 2 N K numbers for keys
    and values and, at rank 2, 10 H for the factors of the two sites. Room is made once, at the first step.
    store: tensors [batch, slot, ...] by name: k, v, pre.key_down and so on. graphs: of the first layer's cache, the
    steps through all layers that are recorded on these very tensors; None before the first such step.
    """

    def __init__(self, capacity: int, visible_keys: int | None = None):
        self.capacity, self.visible_keys, self.length = capacity, visible_keys, 0
        self.slots = capacity if visible_keys is None else min(capacity, visible_keys)
        self.store: dict[str, Tensor] = {}
        self.graphs: Graphs | None = None

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.store.values())

    def extend(self, k: Tensor, v: Tensor, sites: dict[str, Mixing], key_mask: Tensor | None = None) -> Seen:
        """Add the new tokens, and return the keys that they attend over.

        Args:
            key_mask: bool [batch, all tokens so far and the new ones], False on padding; None = no padding.
        Raises:
            ValueError: more tokens than the capacity.
        """
        past, end = self.length, self.length + k.shape[1]
        if end > self.capacity:
            raise ValueError(f"The cache has room for {self.capacity} tokens, {end} were given.")
        new = {"k": k, "v": v} | _key_factors(sites)
        if past == 0:
            keys, positions = new, torch.arange(end)
        elif k.shape[1] == 1:
            self._write(new, past)
            self.length = end
            return self._in_ring(sites, key_mask)
        else:
            positions = torch.arange(max(0, past - self.slots), end)
            old = positions[positions < past] % self.slots
            keys = {name: torch.cat([self.store[name][:, old], value], dim=1) for name, value in new.items()}
        self._write(new, past)
        self.length = end
        first = int(positions[0])
        mask = None if key_mask is None else key_mask[:, first:]
        return self._seen(keys, sites, past - first, self.visible_keys, mask)

    def place(self, k: Tensor, v: Tensor, sites: dict[str, Mixing], at: Place) -> Seen:
        """extend for one new token after earlier ones. All slots are returned, and self.length stays."""
        for name, value in ({"k": k, "v": v} | _key_factors(sites)).items():
            self.store[name].index_copy_(1, at.slot, value)
        return self.all_slots(sites, at)

    def all_slots(self, sites: dict[str, Mixing], at: Place) -> Seen:
        """What a step's query sees once its key stands in its place; sites need the query factors only."""
        return self._seen(self.store, sites, self.slots - 1, None, at.seen)

    def _write(self, new: dict[str, Tensor], past: int) -> None:
        """Put the last of the new tokens, as many as there are slots, in their places."""
        for name, value in new.items():
            if name not in self.store:
                # a recorded step sees all slots, and the pattern 0 of a slot without a token times NaN is NaN
                self.store[name] = value.new_zeros(value.shape[0], self.slots, *value.shape[2:])
            kept = value[:, -self.slots :]
            first = past + value.shape[1] - kept.shape[1]
            start = first % self.slots
            until_end = min(kept.shape[1], self.slots - start)
            self.store[name][:, start : start + until_end] = kept[:, :until_end]
            self.store[name][:, : kept.shape[1] - until_end] = kept[:, until_end:]

    def _in_ring(self, sites: dict[str, Mixing], key_mask: Tensor | None) -> Seen:
        """All filled slots, for one new query that sees every one of them: a softmax knows no order."""
        filled = min(self.length, self.slots)
        keys = {name: value[:, :filled] for name, value in self.store.items()}
        if key_mask is not None:
            key_mask = key_mask[:, standing_positions(self.slots, self.length - 1, key_mask.device)[:filled]]
        return self._seen(keys, sites, filled - 1, None, key_mask)

    @staticmethod
    def _seen(
        keys: dict[str, Tensor],
        sites: dict[str, Mixing],
        query_start: int,
        visible_keys: int | None,
        mask: Tensor | None,
    ) -> Seen:
        merged = {}
        for site, mixing in sites.items():
            known = {name: keys[f"{site}.{name}"] for name in KEY_FACTORS if f"{site}.{name}" in keys}
            merged[site] = mixing.with_factors(known)
        return Seen(keys["k"], keys["v"], merged["pre"], merged["post"], query_start, visible_keys, mask)


def _key_factors(sites: dict[str, Mixing]) -> dict[str, Tensor]:
    return {
        f"{site}.{name}": factor
        for site, mixing in sites.items()
        for name, factor in mixing.factors().items()
        if name in KEY_FACTORS
    }


def caches_for(visible_keys: list[int | None], capacity: int) -> list[KeyCache]:
    """One empty cache a layer. Cached steps run without gradients: the store is written in place."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "Cached decoding writes its keys in place and has no gradient; run it under torch.no_grad()."
        )
    return [KeyCache(capacity, keys) for keys in visible_keys]
