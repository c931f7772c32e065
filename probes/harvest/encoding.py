"""From a document to the pieces that a model reads, and to the rows that are kept of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model import HookedDCFormer
from probes.corpora import Document
from probes.labels import CorpusCounts, Sample

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Piece:
    """Consecutive tokens of a document that the model reads at once.

    number: of the document. ids: what is run, a BOS included where the model expects one; nothing after the last kept
    token, which no earlier one can see. places: of the kept tokens among ids. targets: the tokens that came next in the
    document, -1 at its end. rows: where the kept tokens stand in the shard.
    """

    number: int
    where: str
    ids: Ids
    places: Ids
    targets: Ids
    rows: Ids


class Encoder:
    """Tokenises documents for a model.

    Args:
        context: tokens of a piece, a BOS included.
    Raises:
        ValueError: a context that the model has not.
    """

    def __init__(self, model: HookedDCFormer, context: int | None):
        self.model, self.tokenizer = model, model.tokenizer
        self.context = model.cfg.n_ctx if context is None else context
        self.prefix = [self.tokenizer.bos_token_id] if model.cfg.default_prepend_bos and self.tokenizer else []
        if not len(self.prefix) < self.context <= model.cfg.n_ctx:
            raise ValueError(
                f"context={context} must be {len(self.prefix) + 1} to {model.cfg.n_ctx} tokens for this model."
            )
        self._text_of = lru_cache(2**17)(self._decode)

    @property
    def piece_tokens(self) -> int:
        """Tokens of the document in one piece."""
        return self.context - len(self.prefix)

    def sample(self, document: Document, counts: CorpusCounts | None = None) -> Sample:
        """The document's tokens; none for an empty text.

        Raises:
            ValueError: text without a tokenizer, or ids outside the vocabulary.
        """
        if document.ids is not None:
            ids, offsets = np.array(document.ids, np.int64).reshape(-1), None
            outside = ids[(ids < 0) | (ids >= self.model.cfg.d_vocab)]
            if len(outside):
                raise ValueError(
                    f"{document.where} has token id {outside[0]}, and the ids of this model run from 0 to "
                    f"{self.model.cfg.d_vocab - 1}. Tokenise for this model."
                )
        else:
            ids, offsets = self._encode(document)
        texts = [self._text_of(one) for one in ids.tolist()]
        return Sample(document, ids, texts, offsets, np.arange(len(ids)) // self.piece_tokens, counts)

    def pieces(self, sample: Sample, number: int, kept: Ids, first_row: int) -> Iterator[Piece]:
        """What must run so that the kept positions have their features."""
        size = self.piece_tokens
        following = np.append(sample.ids[1:], -1)
        for start in dict.fromkeys((kept // size * size).tolist()):
            here = kept[(kept >= start) & (kept < start + size)]
            ids = np.concatenate([np.array(self.prefix, np.int64), sample.ids[start : int(here[-1]) + 1]])
            rows = first_row + np.searchsorted(kept, here)
            places = here - start + len(self.prefix)
            yield Piece(number, sample.document.where, ids, places, following[here], rows)

    def tokens_run(self, kept: Ids) -> int:
        """Tokens of all pieces of a document."""
        size = self.piece_tokens
        if not len(kept):
            return 0
        starts = kept // size
        last = np.append(starts[1:] != starts[:-1], True)
        return int((kept[last] - starts[last] * size + 1 + len(self.prefix)).sum())

    def _encode(self, document: Document) -> tuple[Ids, Ids]:
        if self.tokenizer is None:
            raise ValueError(
                f"{document.where} is a text, and this model has no tokenizer. Put a tokenizer.json beside its "
                "weights, or "
                'give JSON lines of {"tokens": [ids]}.'
            )
        if not self.tokenizer.is_fast:
            raise ValueError("Labels need to know where tokens stand in the text: give the model a tokenizer.json.")
        encoded = self.tokenizer(
            document.text, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False,
            verbose=False,
        )  # fmt: skip
        ids = np.array(encoded["input_ids"], np.int64)
        return ids, np.array(encoded["offset_mapping"], np.int64).reshape(-1, 2)

    def _decode(self, token: int) -> str:
        if self.tokenizer is None:
            return f"<{token}>"
        return self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
