"""A `datasets` dataset on disk, as Dataset.save_to_disk writes it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from probes.corpora.corpus import Corpus, Document, Record
from probes.corpora.jsonl import document_of

MARKS = ("dataset_info.json", "dataset_dict.json")
"""A folder that holds one of these was written by save_to_disk."""


class SavedDataset(Corpus):
    """Rows of a dataset with a column `text` (or `tokens`); its other columns are labels.

    Args:
        folder: as save_to_disk wrote it; of several splits one must be named: folder/train.
    Raises:
        ValueError: `datasets` is not installed, or the folder is no dataset of one split.
    """

    def __init__(self, folder: Path):
        try:
            import datasets
        except ImportError as error:
            raise ValueError(
                f"{folder} is a saved dataset, and reading it needs `datasets`: pip install datasets. Or write it as "
                'JSON lines of {"text": ...}.'
            ) from error
        loaded = datasets.load_from_disk(str(folder))
        if isinstance(loaded, datasets.DatasetDict):
            raise ValueError(
                f"{folder} has the splits {', '.join(loaded)}. Give one of them: {folder}/{next(iter(loaded))}."
            )
        self.folder, self.rows = folder, loaded

    def records(self) -> Iterator[Record]:
        # a saved dataset is memory-mapped: a row is read when it is asked for
        for number in range(len(self.rows)):
            yield partial(self._document, number)

    def describe(self) -> dict[str, Any]:
        return {"kind": "saved dataset", "files": [self.folder.name], "columns": list(self.rows.column_names)}

    def _document(self, number: int) -> Document:
        return document_of(self.rows[number], f"{self.folder}, row {number}")
