"""Part of speech and dependency, where spaCy and one of its models are installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np

from probes.labels.label import Label
from probes.labels.sample import Sample, inside

MODEL = "en_core_web_sm"
TAGS = {"part_of_speech": ("pos_", "part of speech (universal tags)"), "dependency": ("dep_", "relation to its head")}


@lru_cache(2)
def tagger(model: str) -> Callable[[str], Any]:
    """A spaCy pipeline.

    Raises:
        ValueError: spaCy or the model is not installed, and how to install it.
    """
    try:
        import spacy

        return spacy.load(model)
    except (ImportError, OSError) as error:
        raise ValueError(
            f"The labels {', '.join(TAGS)} need spaCy and its model {model}, and one of them is not installed: pip "
            f"install spacy, then python -m spacy download {model}. All other labels work without."
        ) from error


def spacy_label(name: str, model: str = MODEL) -> Label:
    """part_of_speech or dependency; the label's name may name another model: part_of_speech:de_core_news_sm."""
    attribute, title = TAGS[name]
    tagger(model)  # says at once what is missing
    return Label(
        name=name, definition=f"{title} of the word that holds the token's first character, by spaCy's {model}",
        values=partial(_tags, attribute, model), needs_text=True,
    )  # fmt: skip


def _tags(attribute: str, model: str, sample: Sample) -> list[str | None]:
    tokens = list(tagger(model)(sample.text))
    found = np.array([[token.idx, token.idx + len(token.text)] for token in tokens], np.int64).reshape(-1, 2)
    return [None if number < 0 else getattr(tokens[number], attribute) for number in inside(sample.anchors, found)]
