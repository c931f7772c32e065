"""A corpus: documents in a fixed order, read one at a time, so that its length costs no memory."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Document:
    """One document.

    where: its place, for errors ("corpus.jsonl, line 3"). text: what is tokenised; None where ids are given. ids: token
    ids in place of a text. columns: its labels by name. A value is one for the whole document (text or number), or a
    list: of [start, end, value] for characters start to end of the text, or of one value for each word between spaces
    (for each token where ids are given). None: no label.
    """

    where: str
    text: str | None
    ids: tuple[int, ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def feed(self, digest: Any) -> None:
        """Everything that a harvest may read of this document into a running hash."""
        fields = [self.text, self.ids, dict(self.columns)]
        digest.update(json.dumps(fields, sort_keys=True, default=str).encode())

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        self.feed(digest)
        return digest.hexdigest()


Record = Callable[[], Document]
"""A document that is made when called: one that another process harvests is never parsed."""


class Corpus(ABC):
    """Documents in an order that is the same each time. columns: labels that every document has."""

    columns: tuple[str, ...] = ()

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """Every document, to be made when it is called.

        Raises:
            ValueError: a file that cannot be read, or a document that is none; the sentence names the place.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What it is, in words and settings that JSON can hold: for the manifest, and to know it again."""

    def __iter__(self) -> Iterator[Document]:
        for record in self.records():
            yield record()


class Documents(Corpus):
    """Documents in memory: texts, or Documents.

    Args:
        name: what the manifest calls them.
    """

    def __init__(self, documents: Sequence[str | Document], name: str = "documents in memory"):
        self.documents, self.name = list(documents), name

    def records(self) -> Iterator[Record]:
        for number, given in enumerate(self.documents):
            yield partial(self._document, number, given)

    def describe(self) -> dict[str, Any]:
        return {"kind": "documents", "name": self.name}

    def _document(self, number: int, given: str | Document) -> Document:
        return Document(f"document {number}", given) if isinstance(given, str) else given
