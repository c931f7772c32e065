"""The tokens that have a component most, each within its context."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from probes.components.decompose import Components

COLUMNS = {
    "component": "its number",
    "end": "high or low: the end of a signed component; high for all others",
    "rank": "from 0, the most extreme first",
    "score": "of the token",
    "left": "text before the token, within its document",
    "token": "the token's text",
    "right": "text after it",
    "document": "its document",
    "index": "the token's row among all",
}
"""Of the result, and what they mean."""
GAP = " … "


def top_tokens(
    components: Components, tokens: Sequence[str], documents: ArrayLike, *, count: int = 10, window: int = 8,
    per_document: int | None = 1, positions: ArrayLike | None = None,
) -> pd.DataFrame:  # fmt: skip
    """For every component, and both ends of a signed one, the tokens with the most extreme scores.

    Args:
        tokens: text of each token, in the order of the text. documents: the document of each; the tokens of a document
            stand together.
        count: tokens for each end. window: tokens of context on either side. per_document: tokens of one document
            that may be listed, so that one document does not fill the list; None = any number.
        positions: of each token in its document, where some tokens are missing: GAP stands in their place.
    Returns:
        COLUMNS.
    Raises:
        ValueError: lengths that differ, or documents whose tokens do not stand together.
    """
    owner, n_tokens = np.asarray(documents), len(components.scores)
    if len(tokens) != n_tokens or owner.shape != (n_tokens,):
        raise ValueError(f"{len(tokens)} tokens and {len(owner)} documents were given for {n_tokens} rows of features.")
    starts, stops = _spans(owner)
    pieces = _with_gaps(tokens, owner, positions)
    rows = []
    for number in range(components.scores.shape[1]):
        for end in ("high", "low") if components.signed else ("high",):
            chosen = _extreme(components, number, end, owner, count, per_document)
            for rank, index in enumerate(chosen):
                left = pieces[max(starts[index], index - window) : index]
                right = pieces[index + 1 : min(stops[index], index + 1 + window)]
                missing = pieces[index].removesuffix(tokens[index])  # a gap just before the token
                rows.append(
                    (number, end, rank, components.scores[index, number], "".join([*left, missing]), tokens[index],
                     "".join(right), owner[index], index)
                )  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _with_gaps(tokens: Sequence[str], owner: NDArray, positions: ArrayLike | None) -> list[str]:
    """Each token, behind GAP where those before it are missing."""
    if positions is None:
        return list(tokens)
    at = np.asarray(positions)
    if at.shape != owner.shape:
        raise ValueError(f"{len(at)} positions were given for {len(owner)} tokens.")
    follows = np.concatenate([[True], (at[1:] == at[:-1] + 1) | (owner[1:] != owner[:-1])])
    return [token if close else f"{GAP}{token}" for token, close in zip(tokens, follows, strict=True)]


def _extreme(
    components: Components, number: int, end: str, owner: NDArray, count: int, per_document: int | None
) -> list[int]:
    """The first `count` tokens from an end, each document's quota kept; of a cluster its members alone."""
    scores = components.scores[:, number]
    order = np.argsort(-scores if end == "high" else scores, kind="stable")
    if components.members is not None:
        order = order[components.members[order] == number]
    taken: dict[object, int] = {}
    chosen: list[int] = []
    for index in order:
        document = owner[index]
        if per_document is not None and taken.get(document, 0) >= per_document:
            continue
        taken[document] = taken.get(document, 0) + 1
        chosen.append(int(index))
        if len(chosen) == count:
            break
    return chosen


def _spans(owner: NDArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where the document of each token starts and stops, [token] each."""
    begins = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
    if len(begins) != len(np.unique(owner)):
        raise ValueError("The tokens of some document do not stand together. Sort tokens by document and position.")
    lengths = np.diff([*begins, len(owner)])
    return np.repeat(begins, lengths), np.repeat(begins + lengths, lengths)
