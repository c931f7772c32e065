"""Making one shard: its documents through the model, their features into arrays, their labels into a table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import Engine
from probes.corpora import Document
from probes.features import Feature, PredictionFeature
from probes.harvest.encoding import Encoder, Piece
from probes.harvest.forward import Batch, FeatureReader, batches
from probes.harvest.plan import PlannedShard, keep_label, kept_positions
from probes.harvest.request import Keep
from probes.harvest.table import TableBuilder
from probes.labels import CorpusCounts, Label
from probes.store import StoreError

TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


@dataclass
class ShardMaker:
    """Makes shards, one after the other; what a shard holds follows from its documents and these settings alone."""

    engine: Engine
    encoder: Encoder
    features: Sequence[Feature]
    predictions: Sequence[PredictionFeature]
    labels: Sequence[Label]
    keep: Keep
    counts: CorpusCounts | None
    dtype: str
    batch_tokens: int
    watch: Callable[[int], Any]
    """Called with the tokens of every batch that is done."""
    reader: FeatureReader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = FeatureReader(self.engine, self.features, bool(self.predictions))

    def make(self, planned: PlannedShard, documents: Iterable[Document]) -> tuple[dict[str, NDArray[Any]], pa.Table]:
        """(tensors by name [row, *shape], token table).

        Raises:
            StoreError: the documents are not those that were planned.
            ValueError: a feature is not finite.
        """
        table = TableBuilder(self.labels, self.predictions, len(self.encoder.prefix))
        pieces = self._encoded(planned, documents, table)
        tensors = {one.name: np.empty((planned.rows, *one.shape), self.dtype) for one in self.features}
        loss, rank = np.full(planned.rows, np.nan, np.float32), np.full(planned.rows, -1, np.int32)
        device = torch.device(str(self.engine.cfg.device))
        for batch in batches(pieces, self.batch_tokens, device):
            stored = batch.stored.numpy()

            def put(name: str, values: Tensor, batch: Batch = batch, stored: NDArray[Any] = stored) -> None:
                tensors[name][stored] = self._finite(name, values, batch)

            found = self.reader.read(batch, put)
            if found is not None:
                self._check_losses(found[0], batch)
                loss[stored], rank[stored] = found[0].numpy(), found[1].numpy()
            self.watch(sum(len(piece.ids) for piece in batch.pieces))
        return tensors, table.build({"next_token_loss": loss, "next_token_rank": rank})

    def _encoded(self, planned: PlannedShard, documents: Iterable[Document], table: TableBuilder) -> list[Piece]:
        """All pieces of the shard; its documents' labels go into the table."""
        pieces: list[Piece] = []
        digest, deciding, seen = hashlib.sha256(), keep_label(self.keep, self.labels), 0
        for number, document in enumerate(documents, start=planned.first_document):
            sample = self.encoder.sample(document, self.counts)
            kept = kept_positions(self.keep, deciding, sample, number)
            document.feed(digest)
            pieces += self.encoder.pieces(sample, number, kept, len(table))
            table.add(sample, number, kept)
            seen += 1
        if digest.hexdigest() != planned.sha256 or len(table) != planned.rows:
            last = planned.first_document + planned.documents - 1
            raise StoreError(
                f"Documents {planned.first_document} to {last} of the corpus are not what they were when this harvest "
                "began "
                f"({seen} of {planned.documents} were found). Put the corpus back as it was, or harvest into another "
                "folder."
            )
        return pieces

    def _finite(self, name: str, values: Tensor, batch: Batch) -> NDArray[Any]:
        """The values in the store's dtype.

        Raises:
            ValueError: one is NaN or infinite, or becomes so in this dtype.
        """
        narrow = values.to(TORCH_DTYPES[self.dtype])
        if not bool(narrow.isfinite().all()):
            bad = int((~narrow.isfinite()).flatten(1).any(1).nonzero()[0, 0])
            if bool(values[bad].isfinite().all()):
                largest = float(values[bad].abs().max())
                raise ValueError(
                    f"{name} is {largest:.3g} at {_place(batch, bad)}, more than {self.dtype} can hold. Store float32."
                )
            raise ValueError(
                f"{name} is NaN or infinite at {_place(batch, bad)}: the model itself computes it so. Check its "
                "weights, or "
                "run it in a wider dtype."
            )
        return narrow.cpu().numpy()

    def _check_losses(self, loss: Tensor, batch: Batch) -> None:
        wrong = ~loss.isfinite() & (batch.targets.cpu() >= 0)
        if bool(wrong.any()):
            bad = int(wrong.nonzero()[0, 0])
            raise ValueError(
                f"next_token_loss is NaN or infinite at {_place(batch, bad)}: the model itself computes it so. Check "
                "its weights, or run it in a wider dtype."
            )


def _place(batch: Batch, kept: int) -> str:
    piece = batch.pieces[int(batch.rows[kept])]
    padding = batch.tokens.shape[1] - len(piece.ids)
    return f"position {int(batch.places[kept]) - padding} of a piece of {piece.where} (document {piece.number})"
