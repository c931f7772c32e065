"""Reading the corpus once before any of it is run: which documents share a shard, how many rows, how large it gets.

The plan holds a line for each shard, none for each document, so its size follows from the store's, not the corpus's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.whole_files import write_whole
from probes.corpora import Corpus, Document
from probes.features import PredictionFeature
from probes.harvest.encoding import Encoder
from probes.harvest.request import Keep
from probes.harvest.table import TableBuilder, parquet_bytes
from probes.labels import CorpusCounts, Label
from probes.labels.columns import column_dtype
from probes.labels.label import CLASS
from probes.labels.registry import BUILT_IN
from probes.labels.spacy_tags import TAGS

PLAN = "plan.json"
SHARD_TOKENS = 2**21
"""Tokens that a shard runs at most, so that a stop never costs more, however few of them are kept."""
TABLE_ROW_BYTES = 20
"""Of a row of the token table, roughly, where it decides the size of a shard."""
SAMPLED_ROWS = 2**12
"""Rows from which the size of the token table is told."""


@dataclass
class PlannedShard:
    """Consecutive documents. tokens: that are run for it. rows: kept. sha256: of its documents, to know them again."""

    first_document: int
    documents: int = 0
    tokens: int = 0
    rows: int = 0
    sha256: str = ""


@dataclass
class Plan:
    """What is known before anything is run.

    corpus: its totals and hash, for the manifest. numbers: labels from columns whose values are all numbers.
    table_row_bytes, table_file_bytes: of the token table, a row and a file without rows.
    """

    corpus: dict[str, Any]
    numbers: list[str]
    table_row_bytes: float
    table_file_bytes: float
    shards: list[PlannedShard]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def write(self, folder: Path, request: dict[str, Any], libraries: dict[str, str]) -> None:
        fields = {"request": request, "libraries": libraries, "plan": dataclasses.asdict(self)}
        write_whole(folder / PLAN, lambda file: file.write(json.dumps(fields).encode()))

    @classmethod
    def read(cls, folder: Path) -> tuple[Plan, dict[str, Any], dict[str, str]] | None:
        """(the plan, the request it was made for, the libraries), or None where there is none."""
        if not (folder / PLAN).is_file():
            return None
        fields = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        shards = [PlannedShard(**shard) for shard in fields["plan"].pop("shards")]
        return cls(**fields["plan"], shards=shards), fields["request"], fields["libraries"]


def count_tokens(corpus: Corpus, encoder: Encoder) -> CorpusCounts:
    """How often each token id stands in the corpus: one reading of it."""
    counts = np.zeros(encoder.model.cfg.d_vocab, np.int64)
    for document in corpus:
        counts += np.bincount(encoder.sample(document).ids, minlength=len(counts))
    return CorpusCounts(counts)


def make_plan(
    corpus: Corpus, encoder: Encoder, keep: Keep, labels: Sequence[Label], predictions: Sequence[PredictionFeature],
    counts: CorpusCounts | None, row_bytes: int, shard_bytes: int,
) -> Plan:  # fmt: skip
    """Read every document, decide what is kept, and cut the corpus into shards.

    Args:
        row_bytes: of a row's tensors.
    Raises:
        ValueError: an empty corpus, no token kept, a column that a document has not, documents that cannot be read.
    """
    planner = _Planner(encoder, keep, labels, predictions, counts, max(1, shard_bytes // (row_bytes + TABLE_ROW_BYTES)))
    for number, document in enumerate(corpus):
        planner.add(number, document)
    return planner.finished(corpus)


class _Planner:
    """Goes through the documents of a corpus in order."""

    def __init__(
        self, encoder: Encoder, keep: Keep, labels: Sequence[Label], predictions: Sequence[PredictionFeature],
        counts: CorpusCounts | None, shard_rows: int,
    ):  # fmt: skip
        self.encoder, self.keep, self.counts, self.shard_rows = encoder, keep, counts, shard_rows
        self.columns = {label.name: set[str]() for label in labels if is_column(label.name)}
        self.deciding = keep_label(keep, labels)
        self.sampled = TableBuilder(labels, predictions, len(encoder.prefix))
        self.shards, self.digest = [PlannedShard(0)], hashlib.sha256()
        self.whole = hashlib.sha256()
        self.totals = {"documents": 0, "empty_documents": 0, "tokens": 0, "documents_cut": 0, "pieces": 0}

    def add(self, number: int, document: Document) -> None:
        sample = self.encoder.sample(document, self.counts)
        kept = kept_positions(self.keep, self.deciding, sample, number)
        self._count(len(sample))
        self._look_at_columns(document)
        tokens, shard = self.encoder.tokens_run(kept), self.shards[-1]
        full = shard.rows + len(kept) > self.shard_rows or shard.tokens + tokens > SHARD_TOKENS
        if shard.rows and len(kept) and full:
            shard = self._next_shard(number)
        shard.documents, shard.tokens, shard.rows = shard.documents + 1, shard.tokens + tokens, shard.rows + len(kept)
        document.feed(self.digest)
        document.feed(self.whole)
        if len(kept) and len(self.sampled) < SAMPLED_ROWS:
            self.sampled.add(sample, number, kept[: SAMPLED_ROWS - len(self.sampled)])

    def finished(self, corpus: Corpus) -> Plan:
        if not self.totals["tokens"]:
            found = f"{self.totals['documents']} documents, all empty" if self.totals["documents"] else "no documents"
            raise ValueError(f"The corpus ({_named(corpus)}) has {found}. Give one that has text.")
        if not self.shards[0].rows:
            raise ValueError(
                f"None of the {self.totals['tokens']} tokens of the corpus is kept by {self.keep}. Keep other values "
                "or more."
            )
        self.shards[-1].sha256 = self.digest.hexdigest()
        row, file = _table_size(self.sampled)
        numbers = [name for name, found in self.columns.items() if found and CLASS not in found]
        about = corpus.describe() | self.totals | {"sha256": self.whole.hexdigest(), "context": self.encoder.context}
        return Plan(about, numbers, row, file, self.shards)

    def _next_shard(self, first_document: int) -> PlannedShard:
        self.shards[-1].sha256, self.digest = self.digest.hexdigest(), hashlib.sha256()
        self.shards.append(PlannedShard(first_document))
        return self.shards[-1]

    def _count(self, tokens: int) -> None:
        pieces = -(-tokens // self.encoder.piece_tokens)
        self.totals["documents"] += 1
        self.totals["empty_documents"] += tokens == 0
        self.totals["tokens"] += tokens
        self.totals["documents_cut"] += pieces > 1
        self.totals["pieces"] += pieces

    def _look_at_columns(self, document: Document) -> None:
        for name, found in self.columns.items():
            if dtype := column_dtype(name, document):
                found.add(dtype)


def is_column(name: str) -> bool:
    """Is this label a column of the corpus, not a built-in one?"""
    return name not in BUILT_IN and name not in TAGS


def keep_label(keep: Keep, labels: Sequence[Label]) -> Label | None:
    """The label that decides what is kept, if one does."""
    if keep.label is None:
        return None
    return next(one for one in labels if one.name == keep.label.partition(":")[0] or one.name == keep.label)


def kept_positions(keep: Keep, deciding: Label | None, sample: Any, number: int) -> NDArray[np.int64]:
    if not len(sample):
        return np.empty(0, np.int64)
    return keep.positions(len(sample), number, None if deciding is None else deciding.of(sample))


def _table_size(sampled: TableBuilder) -> tuple[float, float]:
    """Bytes of a row and of a file, from tables of all sampled rows and of half of them."""
    rows = len(sampled)
    # what predictions will be is not known; random losses and ranks take as much room
    loss = np.random.default_rng(0).exponential(2.0, rows).astype(np.float32)
    guesses = {"next_token_loss": loss, "next_token_rank": np.exp(loss).astype(np.int32)}
    table = sampled.build({feature.name: guesses[feature.name] for feature in sampled.predictions})
    whole, half = parquet_bytes(table), parquet_bytes(table.slice(0, rows // 2))
    row = (whole - half) / (rows - rows // 2)
    return row, max(0.0, whole - row * rows)


def _named(corpus: Corpus) -> str:
    about = corpus.describe()
    return f"{about['kind']} {', '.join(map(str, about.get('files', [])))}".strip()
