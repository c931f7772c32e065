"""How large a store will be, told before it is made, and the refusal of what does not fit the disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from model.memory import in_words
from probes.features import Feature
from probes.harvest.plan import Plan

SHARD_ENTRY_BYTES = 600
"""Of a shard in the manifest."""


@dataclass(frozen=True)
class Estimate:
    """What a harvest will run and write.

    documents, tokens: of the corpus. tokens_run: that go through the model. rows: tokens kept. row_bytes: of one kept
    token. bytes: of the whole folder. largest_shard: bytes of its tensors, held in memory while it is made.
    """

    documents: int
    tokens: int
    tokens_run: int
    rows: int
    shards: int
    row_bytes: float
    bytes: int
    largest_shard: int

    def __str__(self) -> str:
        return (
            f"{self.documents:,} documents, {self.tokens:,} tokens, of which {self.tokens_run:,} run and {self.rows:,} "
            f"are kept: {self.row_bytes:,.0f} bytes each, {in_words(self.bytes)} in {self.shards} shards"
        )


def row_bytes(features: Sequence[Feature], dtype: str) -> int:
    """Bytes of one token's tensors."""
    return sum(feature.size for feature in features) * np.dtype(dtype).itemsize


def estimated(plan: Plan, features: Sequence[Feature], dtype: str, manifest_bytes: int) -> Estimate:
    """The size of a planned store.

    Args:
        features: the tensors. manifest_bytes: of the manifest without its shards.
    """
    tensors = row_bytes(features, dtype)
    header = len(save({one.name: np.empty((0, *one.shape), dtype) for one in features}))
    per_row, per_shard = tensors + plan.table_row_bytes, header + plan.table_file_bytes + SHARD_ENTRY_BYTES
    total = math.ceil(per_row * plan.rows + per_shard * len(plan.shards) + manifest_bytes)
    largest = max(shard.rows for shard in plan.shards) * tensors
    run = sum(shard.tokens for shard in plan.shards)
    corpus = plan.corpus
    return Estimate(corpus["documents"], corpus["tokens"], run, plan.rows, len(plan.shards), per_row, total, largest)


def check_room(estimate: Estimate, folder: Path, written: int) -> None:
    """Refuse a store that does not fit the disk.

    Args:
        written: bytes of it that are there already.
    Raises:
        ValueError: what is needed, what is free, and what to do.
    """
    place = next(path for path in (folder, *folder.parents) if path.exists())
    free, needed = shutil.disk_usage(place).free, estimate.bytes - written
    if needed > free:
        raise ValueError(
            f"The store needs {in_words(needed)} more at {folder}, where {in_words(free)} are free. Keep fewer tokens "
            "(every, "
            "per_document, a label), fewer features or layers, or give a folder on another disk."
        )
