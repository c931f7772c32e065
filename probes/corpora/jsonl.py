"""JSON lines: {"text": ..., any column: ...} a line, or {"tokens": [ids], ...} for a model without a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from model.plain_words import parse_json
from probes.corpora.corpus import Corpus, Document, Record


class JsonLines(Corpus):
    """Files of JSON lines, in the order given; empty lines do not count."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = list(paths)

    def records(self) -> Iterator[Record]:
        for path in self.paths:
            try:
                with open(path, "rb") as file:
                    for number, line in enumerate(file, start=1):
                        if not line.isspace():
                            yield partial(_document, line, f"{path}, line {number}")
            except OSError as error:
                raise ValueError(f"{path} cannot be read: {error.strerror}. Give another file.") from error

    def describe(self) -> dict[str, Any]:
        return {"kind": "JSON lines", "files": [path.name for path in self.paths]}


def _document(line: bytes, where: str) -> Document:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is not UTF-8 ({error.reason}). Convert the file first.") from error
    try:
        fields = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}). One JSON object a line is needed.") from error
    return document_of(fields, where)


def document_of(fields: Any, where: str) -> Document:
    """A document from an object with `text` or `tokens`; everything else is a column.

    Raises:
        ValueError: neither is there, or not as needed.
    """
    if not isinstance(fields, dict):
        raise ValueError(f"{where} holds {type(fields).__name__}. An object with a field `text` is needed.")
    columns = {str(name): value for name, value in fields.items() if name not in ("text", "tokens")}
    text, ids = fields.get("text"), fields.get("tokens")
    if isinstance(text, str):
        if ids is not None:
            columns["tokens"] = ids  # with a text this is a label, one for each word perhaps
        return Document(where, text, None, columns)
    if text is None and isinstance(ids, list) and all(isinstance(one, int) for one in ids):
        return Document(where, None, tuple(ids), columns)
    raise ValueError(f"{where} has no field `text` that holds a text, nor `tokens` that holds token ids. Add one.")
