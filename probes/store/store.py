"""Store: reading what a harvest wrote, memory-mapped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm.auto import tqdm

from model import HookedDCFormer
from model.plain_words import one_line
from model.whole_files import sha256
from probes.store.derived import derive
from probes.store.manifest import DerivedLabel, Manifest, StoredFeature, StoredLabel, StoreError
from probes.store.rows import Rows, count, pieces
from probes.store.shards import map_tensors
from probes.weights import weights_hash

COLUMNS = ("document", "position", "piece", "context_position", "token_id", "token")
"""Of every token table; labels follow."""
OPEN_SHARDS = 256
"""Shards that stay mapped; each holds a file open, and a process may have about 1,000."""


class Store:
    """Features and labels of the kept tokens of a corpus; made by Store.open.

    Rows stand in the order of the corpus. folder: where it lies. manifest: all that it says of itself.
    """

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder, self.manifest = folder, manifest
        self._tensors = lru_cache(OPEN_SHARDS)(self._map)

    @classmethod
    def open(cls, path: str | Path, model: HookedDCFormer | None = None) -> Store:
        """A finished store.

        Args:
            model: refuse a store that was made with other weights than this model's.
        Raises:
            StoreError: no store, an unfinished one, one of another version or model, or a file that is missing or has
                another size than the manifest says.
        """
        folder = Path(path).expanduser()
        store = cls(folder, Manifest.read(folder))
        for shard in store.manifest.shards:
            for name, described in shard.files.items():
                store._check_size(name, described["bytes"])
        if model is not None:
            store.check_model(model)
        return store

    def __len__(self) -> int:
        return self.manifest.rows

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r}: {len(self)} tokens, {len(self.features)} features, {self.model_name})"

    @property
    def model_name(self) -> str:
        return str(self.manifest.model["name"])

    @property
    def features(self) -> dict[str, StoredFeature]:
        """What read takes, by name."""
        return {feature.name: feature for feature in self.manifest.features}

    @property
    def labels(self) -> dict[str, StoredLabel | DerivedLabel]:
        """The labels among the columns of the table, by name."""
        both: tuple[StoredLabel | DerivedLabel, ...] = (*self.manifest.labels, *self.manifest.derived_labels)
        return {label.name: label for label in both}

    @property
    def columns(self) -> list[str]:
        """What table takes."""
        predictions = [f.name for f in self.manifest.features if f.stored_as == "column"]
        return [*COLUMNS, *predictions, *self.labels]

    def read(self, name: str, rows: Rows = None) -> NDArray[Any]:
        """A feature's values, [row, *shape].

        Args:
            rows: a slice, indices in any order, or a mask of all rows; None = all.
        Returns:
            Rows that lie in one shard as a view of the file (read-only; nothing is read before it is looked at), others
            as a copy. A part that is stored as its factors is computed, in float32.
        Raises:
            StoreError: an unknown feature. ValueError: rows that do not exist.
        """
        feature = self._feature(name)
        if feature.stored_as == "column":
            return self.table([name], rows)[name].to_numpy()
        if feature.stored_as == "factors":
            down, up, gate = (self._read_tensor(part, rows) for part in feature.parts)
            return part_of_factors(down, up, gate, feature.shape)
        return self._read_tensor(name, rows, feature)

    def table(self, columns: Sequence[str] | None = None, rows: Rows = None) -> pd.DataFrame:
        """The token table: document, position, piece, context_position, token_id, token, predictions and labels.

        Args:
            columns: names of `columns`; None = all. rows: as for read.
        Raises:
            StoreError: an unknown column.
        """
        wanted = list(self.columns if columns is None else columns)
        unknown = [name for name in wanted if name not in self.columns]
        if unknown:
            raise StoreError(f"{self.folder} has no column {unknown[0]!r}. It has: {', '.join(self.columns)}.")
        derived = {label.name: label for label in self.manifest.derived_labels if label.name in wanted}
        stored = dict.fromkeys(derived[name].column if name in derived else name for name in wanted)
        frame = self._stored_columns(list(stored), rows)
        for name, label in derived.items():
            frame[name] = derive(label, frame[label.column].to_numpy())
        return frame[wanted]

    def verify(self, progress: bool = False) -> None:
        """Read every file once and compare it with the manifest's sums.

        Raises:
            StoreError: naming every damaged file.
        """
        files = [(name, described) for shard in self.manifest.shards for name, described in shard.files.items()]
        damaged = []
        for name, described in tqdm(files, desc="verify", unit="file", disable=not progress):
            path = self.folder / name
            if not path.is_file() or sha256(path) != described["sha256"]:
                damaged.append(name)
        if damaged:
            raise StoreError(
                f"{len(damaged)} of {len(files)} files of {self.folder} are damaged: {', '.join(damaged)}. Put them "
                "back from a copy, or harvest again into another folder."
            )

    def check_model(self, model: HookedDCFormer) -> None:
        """Refuse a model whose weights are not those that the store was made with."""
        made_with, given = self.manifest.model["weights_sha256"], weights_hash(model)
        if made_with != given:
            raise StoreError(
                f"{self.folder} was made with {self.model_name} (weights {made_with[:12]}), not with this "
                f"{model.cfg.model_name} (weights {given[:12]}). Give that model, or harvest this one into another "
                "folder."
            )

    # -- reading -----------------------------------------------------------------------------------

    def _feature(self, name: str) -> StoredFeature:
        if name not in self.features:
            raise StoreError(f"{self.folder} has no feature {name!r}. It has: {', '.join(self.features)}.")
        return self.features[name]

    def _map(self, shard: int) -> dict[str, NDArray[Any]]:
        described = self.manifest.shards[shard]
        tensors = map_tensors(self.folder / described.tensors)
        for feature in self.manifest.features:
            there = tensors.get(feature.name)
            needed = (described.rows, *feature.shape), feature.dtype
            if feature.stored_as == "tensor" and (there is None or (there.shape, str(there.dtype)) != needed):
                found = "is not there" if there is None else f"is {there.dtype} {list(there.shape)}"
                raise StoreError(
                    f"{self.folder / described.tensors}: {feature.name} {found}, and the manifest says {needed[1]} "
                    f"{list(needed[0])}. Put the file back from a copy, or harvest again."
                )
        return tensors

    def _read_tensor(self, name: str, rows: Rows, feature: StoredFeature | None = None) -> NDArray[Any]:
        found = list(pieces(rows, [shard.rows for shard in self.manifest.shards]))
        if len(found) == 1 and isinstance(found[0].local, slice):
            return self._tensors(found[0].shard)[name][found[0].local]
        like = self._tensors(0)[name]
        out = np.empty((count(rows, len(self)), *like.shape[1:]), like.dtype)
        for piece in found:
            out[piece.place] = self._tensors(piece.shard)[name][piece.local]
        return out

    def _stored_columns(self, columns: list[str], rows: Rows) -> pd.DataFrame:
        shards, tables, places = self.manifest.shards, [], []
        for piece in pieces(rows, [shard.rows for shard in shards]):
            table = self._table(piece.shard, columns)
            local = piece.local
            tables.append(table[local] if isinstance(local, slice) else table.take(pa.array(local)))
            places.append(np.arange(count(rows, len(self)))[piece.place])
        if not tables:
            tables, places = [self._table(0, columns).slice(0, 0)], [np.empty(0, np.int64)]
        try:
            frame = pa.concat_tables(tables).unify_dictionaries().to_pandas()
        except (pa.ArrowException, ValueError) as error:
            raise StoreError(
                f"The tables of {self.folder} do not go together ({one_line(error)}). Compare the files with verify()."
            ) from error
        order = np.argsort(np.concatenate(places), kind="stable")
        return frame if (np.diff(order) == 1).all() else frame.iloc[order].reset_index(drop=True)

    def _table(self, shard: int, columns: list[str]) -> pa.Table:
        """Columns of one shard's table.

        Raises:
            StoreError: the file is damaged, or lacks a column or rows.
        """
        described = self.manifest.shards[shard]
        path = self.folder / described.table
        try:
            table = pq.read_table(path, columns=columns)
            table.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError) as error:
            raise StoreError(
                f"{path} cannot be read ({one_line(error)}). Put it back from a copy, or harvest again."
            ) from error
        if missing := [name for name in columns if name not in table.column_names]:
            raise StoreError(f"{path} has no column {missing[0]!r}. Put it back from a copy, or harvest again.")
        if len(table) != described.rows:
            raise StoreError(
                f"{path} has {len(table)} rows where the manifest says {described.rows}. Put it back from a copy."
            )
        return table

    def _check_size(self, name: str, size: int) -> None:
        path = self.folder / name
        there = path.stat().st_size if path.is_file() else None
        if there != size:
            found = "is missing" if there is None else f"has {there} bytes where the manifest says {size}"
            raise StoreError(f"{path} {found}. Put it back from a copy, or harvest again.")


def part_of_factors(
    down: NDArray[Any], up: NDArray[Any], gate: NDArray[Any], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """down^T up + diag gate of every row in float32, [row, H, H], or [row, G, H/G, H/G] with groups."""
    down, up, gate = (np.asarray(factor, dtype=np.float32) for factor in (down, up, gate))
    part = np.swapaxes(down, -1, -2) @ up
    diagonal = np.arange(shape[-1])
    part[..., diagonal, diagonal] += gate.reshape(len(gate), *shape[:-1])
    return part
