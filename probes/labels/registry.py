"""Every built-in label. A new one is a new file and a line here."""

from __future__ import annotations

from collections.abc import Iterable

from probes.features.predictions import LOSS, RANK
from probes.labels.casing import CASING, PUNCTUATION
from probes.labels.columns import column_label
from probes.labels.frequency import FREQUENCY_BAND, REPEATED_BEFORE
from probes.labels.label import Label
from probes.labels.positions import POSITION_IN_SENTENCE, POSITION_IN_WORD
from probes.labels.spacy_tags import MODEL, TAGS, spacy_label
from probes.labels.token_class import TOKEN_CLASS, TOKEN_IDENTITY
from probes.store.manifest import DerivedLabel

BUILT_IN = {
    label.name: label
    for label in (
        TOKEN_CLASS,
        TOKEN_IDENTITY,
        POSITION_IN_WORD,
        POSITION_IN_SENTENCE,
        CASING,
        PUNCTUATION,
        FREQUENCY_BAND,
        REPEATED_BEFORE,
    )
}

QUANTILES = (0.2, 0.4, 0.6, 0.8)
DERIVED = {
    label.name: label
    for label in (
        DerivedLabel(
            "loss_quantile", LOSS, (), ("1 (foreseen)", "2", "3", "4", "5 (surprising)"),
            "fifth of the store's losses of the next token, by edges that are exact",
        ),
        DerivedLabel(
            "rank_class", RANK, (2, 6, 21, 101), ("1", "2-5", "6-20", "21-100", "over 100"),
            "the rank of the next token among the model's predictions",
        ),
    )
}  # fmt: skip
"""Labels that follow from a prediction; the edges of loss_quantile are those of the finished store."""

LABELS = (*BUILT_IN, *DERIVED, *TAGS)
"""Names of all built-in labels."""


def default_labels(text: bool, predictions: bool) -> tuple[str, ...]:
    """Every built-in label that needs nothing installed.

    Args:
        text: documents are texts. predictions: next_token_loss and next_token_rank are kept.
    """
    plain = [name for name, label in BUILT_IN.items() if text or not label.needs_text]
    return (*plain, *(DERIVED if predictions else ()))


def resolve_labels(names: Iterable[str], features: Iterable[str]) -> tuple[list[Label], list[DerivedLabel]]:
    """Labels by name: built in, spaCy's, or else a column of the corpus.

    Args:
        features: names of what is kept, which derived labels follow from.
    Raises:
        ValueError: a label that needs spaCy, which is not installed, or a prediction that is not kept.
    """
    labels: dict[str, Label] = {}
    derived: dict[str, DerivedLabel] = {}
    kept = set(features)
    for name in names:
        bare, _, model = name.partition(":")
        if name in DERIVED:
            derived[name] = DERIVED[name]
            if derived[name].column not in kept:
                raise ValueError(f"The label {name} follows from {derived[name].column}. Keep this feature too.")
        elif name in (LOSS, RANK):  # a column of the table already, where it is kept
            if name not in kept:
                raise ValueError(f"{name} is a feature, and it is not kept. Name it among the features.")
        elif bare in TAGS:
            labels[bare] = spacy_label(bare, model or MODEL)
        else:
            labels[name] = BUILT_IN.get(name) or column_label(name)
    return list(labels.values()), list(derived.values())
