"""One label: what it says of every token of a document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from probes.labels.sample import Sample

CLASS, WHOLE, NUMBER = "string", "int32", "float64"
Values = Sequence[Any] | NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Label:
    """A label.

    name: of the column. definition: how it is decided. values: (a document) -> one value a token; None = no label.
    dtype: CLASS, WHOLE or NUMBER. needs_text: it reads the text, which ids alone have not. needs_counts: it reads how
    often tokens stand in the whole corpus.
    """

    name: str
    definition: str
    values: Callable[[Sample], Values] = field(compare=False)
    dtype: str = CLASS
    needs_text: bool = False
    needs_counts: bool = False

    @property
    def kind(self) -> str:
        """ "class" or "number"."""
        return "class" if self.dtype == CLASS else "number"

    def of(self, sample: Sample) -> Values:
        """The values, after a check that what they need is there.

        Raises:
            ValueError: the document has no text, or a column is missing or does not fit.
        """
        if self.needs_text and sample.offsets is None:
            raise ValueError(
                f"{sample.document.where} has token ids but no text, which the label {self.name} needs. Leave the "
                "label out, or give texts and a model with a tokenizer."
            )
        return self.values(sample)
