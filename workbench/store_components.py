"""Components of a store's features as a person asks for them, and where in a text their tokens stand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probes.components import Components, decompose, participation_ratio, top_tokens
from probes.store import Store
from probes.tasks import generate

MOST_TOKENS, MOST_NUMBERS = 20_000, 4096
"""Tokens that are read, and numbers that a feature may have of each."""
LISTED, WINDOW = 10, 12
PLACE = ["document", "position", "piece", "context_position", "token_id", "token"]


@dataclass(frozen=True)
class ComponentRequest:
    """Everything that decides the components, as plain values.

    folder: of the store. feature: of it. method, count, seed: see probes.components.decompose; nmf splits negative
    numbers from positive ones. tokens: the first so many of the store are read.
    """

    folder: str
    feature: str
    method: str = "pca"
    count: int = 8
    seed: int = 0
    tokens: int = MOST_TOKENS


@dataclass(frozen=True)
class ComponentReading:
    """What was found.

    components: of `tokens`, a row of PLACE each. directions: [component, *shape of the feature]; of nmf with negative
    numbers the positive part less the negative one. dimension: participation ratio of the features.
    """

    components: Components
    tokens: pd.DataFrame
    directions: NDArray[np.float64]
    dimension: float

    @property
    def nbytes(self) -> int:
        return self.components.scores.nbytes + self.directions.nbytes + int(self.tokens.memory_usage(deep=True).sum())

    def top(self, count: int = LISTED, per_document: int | None = 1) -> pd.DataFrame:
        """See probes.components.top_tokens."""
        return top_tokens(
            self.components, self.tokens.token.astype(str).tolist(), self.tokens.document, count=count, window=WINDOW,
            per_document=per_document, positions=self.tokens.position,
        )  # fmt: skip

    def summary(self, top: pd.DataFrame) -> pd.DataFrame:
        """A row for each component: component, share, and its tokens at either end."""
        found = pd.DataFrame({"component": range(len(self.components.share)), "share": self.components.share})
        for end in dict.fromkeys(top.end):
            listed = top[top.end == end].groupby("component").token.agg(list)
            found[end] = [listed.get(number, []) for number in found.component]
        return found


def component_features(store: Store) -> list[str]:
    """Features of a store that have components: several numbers for each token, and not too many."""
    return [
        name for name, feature in store.features.items()
        if feature.stored_as != "column" and 1 < int(np.prod(feature.shape)) <= MOST_NUMBERS
    ]  # fmt: skip


def read_components(request: ComponentRequest) -> ComponentReading:
    """Open the store and take the feature apart.

    Raises:
        ValueError: no store, no such feature, or what decompose refuses.
    """
    store = Store.open(request.folder)
    rows = slice(0, min(request.tokens, len(store)))
    values = np.asarray(store.read(request.feature, rows), dtype=np.float64)
    shape, flat = values.shape[1:], values.reshape(len(values), -1)
    found = decompose(flat, request.count, request.method, signs="split", seed=request.seed)
    directions = found.directions
    if directions.shape[1] == 2 * flat.shape[1]:
        directions = directions[:, : flat.shape[1]] - directions[:, flat.shape[1] :]
    table = store.table(PLACE, rows)
    return ComponentReading(found, table, directions.reshape(-1, *shape), participation_ratio(flat))


# -- where a token stands ----------------------------------------------------------------------------


class TokenPlace(NamedTuple):
    """A text and the place of a token among its tokens. whole: it is all that the model had read of the document."""

    text: str
    position: int
    whole: bool


def token_place(store: Store, tokens: pd.DataFrame, index: int) -> TokenPlace:
    """The text in which a token stood: made again where it is a generated task row, else as far as it was kept.

    Args:
        tokens: rows of PLACE. index: of the token among them.
    Raises:
        ValueError: a corpus of task rows that are none.
    """
    at, corpus = tokens.iloc[index], store.manifest.corpus
    if corpus.get("kind") == "task rows" and "rules" in corpus and at.piece == 0:
        # as probes.corpora.TaskRows makes them: every round takes a row of each rule
        index, place = divmod(int(at.document), len(corpus["rules"]))
        (row,) = generate([corpus["rules"][place]], 1, corpus["seed"], corpus["split"], first=index)
        return TokenPlace(row.plain_text, int(at.context_position), True)
    return _kept_around(tokens, index)


def _kept_around(tokens: pd.DataFrame, index: int) -> TokenPlace:
    """The longest stretch of tokens that follow one another in one piece of a document."""
    piece, place = tokens[["document", "piece"]].to_numpy(), tokens.context_position.to_numpy()
    joined = np.concatenate([[False], (piece[1:] == piece[:-1]).all(1) & (place[1:] == place[:-1] + 1)])
    breaks = np.flatnonzero(~joined)
    start = int(breaks[np.searchsorted(breaks, index, side="right") - 1])
    after = breaks[breaks > index]
    stop = int(after[0]) if len(after) else len(tokens)
    text = "".join(tokens.token[start:stop].astype(str))
    return TokenPlace(text, index - start, int(place[start]) == 0)


def model_of(store: Store, names: list[str]) -> str:
    """The model that is likely the store's, by its name; else the first."""
    return next((name for name in names if Path(name).name == store.model_name), names[0])


def check_token(model: Any, place: TokenPlace, token_id: int) -> int:
    """The token's position in what the model reads of the text, a BOS counted.

    Raises:
        ValueError: the model reads another token there.
    """
    ids = model.to_tokens(place.text)[0].tolist()
    position = place.position + (1 if model.cfg.default_prepend_bos else 0)
    if position >= len(ids) or ids[position] != token_id:
        raise ValueError(
            "The tokens that were kept here read otherwise as a text, so that the token cannot be opened. Harvest with "
            "all tokens of each document kept, or choose another token."
        )
    return position
