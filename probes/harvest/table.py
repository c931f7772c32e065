"""The token table of a shard: what is said of every kept token in words and numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from probes.features import PredictionFeature
from probes.labels import Label, Sample
from probes.labels.label import CLASS, WHOLE

PLACES = (("document", pa.int64()), ("position", pa.int64()), ("piece", pa.int32()), ("context_position", pa.int32()),
          ("token_id", pa.int32()))  # fmt: skip
TYPES = {"int32": pa.int32(), "float32": pa.float32(), "float64": pa.float64()}


class TableBuilder:
    """Rows of the token table, document by document."""

    def __init__(self, labels: Sequence[Label], predictions: Sequence[PredictionFeature], prefix: int):
        self.labels, self.predictions, self.prefix = list(labels), list(predictions), prefix
        self.places: dict[str, list[NDArray[Any]]] = {name: [] for name, _ in PLACES}
        self.texts: list[str] = []
        self.values: dict[str, list[Any]] = {label.name: [] for label in labels}

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, sample: Sample, number: int, kept: NDArray[np.int64]) -> None:
        """The kept positions of a document.

        Raises:
            ValueError: a label that this document cannot have; the sentence names the place.
        """
        pieces = sample.pieces[kept]
        starts = np.searchsorted(sample.pieces, pieces)
        found = (np.full(len(kept), number), kept, pieces, kept - starts + self.prefix, sample.ids[kept])
        for (name, _), values in zip(PLACES, found, strict=True):
            self.places[name].append(values)
        places = kept.tolist()
        self.texts += [sample.texts[place] for place in places]
        for label in self.labels:
            of_all = label.of(sample)
            whole = len(kept) == len(sample)
            self.values[label.name] += list(of_all) if whole else [of_all[place] for place in places]

    def build(self, predicted: dict[str, NDArray[Any]]) -> pa.Table:
        """The table. predicted: one array for each prediction."""
        columns: dict[str, Any] = {}
        for name, kind in PLACES:
            parts = self.places[name]
            columns[name] = pa.array(np.concatenate(parts) if parts else np.empty(0, np.int64), type=kind)
        columns["token"] = _classes(self.texts)
        for feature in self.predictions:
            columns[feature.name] = pa.array(predicted[feature.name], type=TYPES[feature.dtype])
        for label in self.labels:
            values = self.values[label.name]
            columns[label.name] = _classes(values) if label.dtype == CLASS else _numbers(values, label.dtype)
        return pa.table(columns)


def _classes(values: Sequence[str | None]) -> pa.Array:
    return pa.array(values, type=pa.string()).dictionary_encode()


def _numbers(values: list[Any], dtype: str) -> pa.Array:
    if dtype == WHOLE:
        return pa.array(np.array(values, np.int64), type=TYPES[dtype])
    return pa.array(values, type=TYPES[dtype])


def parquet_bytes(table: pa.Table) -> int:
    """Size of the file that a table becomes."""
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.tell()
