"""What a harvest has done so far: a receipt for each finished shard, and in the end the manifest."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.whole_files import write_whole
from probes.harvest.plan import Plan
from probes.harvest.ranks import locked
from probes.labels.registry import QUANTILES
from probes.store import DerivedLabel, Manifest, StoredShard, StoreError
from probes.store.derived import exact_quantiles
from probes.store.manifest import MANIFEST, UNFINISHED
from probes.store.shards import write_shard


class Progress:
    """The unfinished folder of a store, which only a finished manifest replaces."""

    def __init__(self, folder: Path):
        self.folder, self.inside = folder, folder / UNFINISHED

    @property
    def finished(self) -> bool:
        return (self.folder / MANIFEST).is_file()

    def check_folder(self) -> None:
        """Refuse a folder that holds something else.

        Raises:
            StoreError: what is there, and what to do.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise StoreError(f"{self.folder} is a file. Give a folder.")
        if self.finished or self.inside.is_dir() or not self.folder.exists():
            return
        held = sorted(path.name for path in self.folder.iterdir())
        if held:
            raise StoreError(
                f"{self.folder} holds {held[0]}, and no harvest was begun there. Give a new or empty folder."
            )

    def receipt(self, number: int) -> StoredShard | None:
        """What is known of a finished shard; None = it is not finished, or a file of it is gone or short."""
        path = self.inside / f"{shard_name(number)}.json"
        if not path.is_file():
            return None
        shard = StoredShard(**json.loads(path.read_text(encoding="utf-8")))
        sizes = ((self.folder / name, entry["bytes"]) for name, entry in shard.files.items())
        return shard if all(path.is_file() and path.stat().st_size == size for path, size in sizes) else None

    def write(self, number: int, plan: Plan, tensors: dict[str, NDArray[Any]], table: pa.Table) -> None:
        """Both files of a shard, and then the receipt: a stop in between leaves it unfinished."""
        planned, name = plan.shards[number], shard_name(number)
        files = write_shard(self.folder, name, tensors, table)
        shard = StoredShard(name, planned.rows, planned.first_document, planned.documents, files)
        told = json.dumps(dataclasses.asdict(shard)).encode()
        write_whole(self.inside / f"{name}.json", lambda file: file.write(told))

    def written(self, plan: Plan) -> int:
        """Bytes of the finished shards."""
        done = (self.receipt(number) for number in range(len(plan.shards)))
        return sum(entry["bytes"] for shard in done if shard for entry in shard.files.values())

    def finish(self, plan: Plan, without_shards: Manifest) -> bool:
        """Write the manifest once every shard is there; whichever process sees that first does it.

        Returns:
            Whether the store is finished.
        """
        with locked(self.inside / "finish.lock"):
            if not self.finished:
                shards = [self.receipt(number) for number in range(len(plan.shards))]
                if not all(shards):
                    return False
                whole = [shard for shard in shards if shard is not None]
                derived = tuple(self._with_edges(label, whole) for label in without_shards.derived_labels)
                dataclasses.replace(without_shards, shards=tuple(whole), derived_labels=derived).write(self.folder)
        self.tidy()
        return True

    def tidy(self) -> None:
        """Remove what only an unfinished harvest needs."""
        shutil.rmtree(self.inside, ignore_errors=True)

    def _with_edges(self, label: DerivedLabel, shards: Sequence[StoredShard]) -> DerivedLabel:
        """The label with the edges of the whole store, where it has none of its own."""
        if label.edges:
            return label

        def columns() -> Iterator[NDArray[np.float32]]:
            for shard in shards:
                yield pq.read_table(self.folder / shard.table, columns=[label.column])[label.column].to_numpy()

        return dataclasses.replace(label, edges=exact_quantiles(columns, QUANTILES))


def shard_name(number: int) -> str:
    return f"shard-{number:05d}"
