"""Where a token stands in its word and its sentence (the absolute position is a column of every store)."""

from __future__ import annotations

from probes.labels.label import WHOLE, Label
from probes.labels.sample import SENTENCE_END, WORD, Ids, Sample, since_change


def _in_word(sample: Sample) -> Ids:
    places = since_change(sample.word_of)
    places[sample.word_of < 0] = 0
    return places


def _in_sentence(sample: Sample) -> Ids:
    return since_change(sample.sentence_of)


POSITION_IN_WORD = Label(
    name="position_in_word",
    definition=f"how many tokens of the same word stand before; words are matched by {WORD.pattern}",
    values=_in_word,
    dtype=WHOLE,
    needs_text=True,
)
POSITION_IN_SENTENCE = Label(
    name="position_in_sentence",
    definition=f"how many tokens of the same sentence stand before; a sentence ends at {SENTENCE_END.pattern!r}",
    values=_in_sentence,
    dtype=WHOLE,
    needs_text=True,
)
