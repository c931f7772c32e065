"""Two runs side by side, as the Compare page shows them: numbers by token, head pairs, predictions.

Everything is measured by probes.comparison; differences are b - a. What it looks like is in comparison_views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import pandas as pd

from probes import Intervention, MeanMixing, uncomposed_twin
from probes.comparison import Comparison
from probes.interventions import Change
from probes.metrics import Metric
from probes.side_by_side import Runs, next_tokens, row_distances
from workbench import drafts

COMPOSITIONS = {
    "as trained": "with the mixing that the model has",
    "uncomposed twin": "the same weights with M = I everywhere; off the distribution that they were trained for",
    "frozen": "mixing frozen to its mean over the example prompts: nothing depends on tokens any more",
    "intervention": "under interventions written as JSON, as the Intervene page saves them",
}
"""What can become of a side's mixing."""
NEXT_TOKENS = 5
"""Most likely next tokens of each side that are shown."""
HEAD_DISTANCE = Metric(
    name="head_distance", title="Distance of a pair of heads", unit="L1 distance of weights",
    ranges={"composed": (0.0, inf)},
    definition=(
        "Of the composed patterns of a head of A and its partner of B: sum over aligned keys of the absolute "
        "difference of their weights, mean over aligned queries (at most 256, evenly spaced) or at one query. 0 for "
        "equal rows, up to 2 for rows of probabilities; composed rows sum to anything, so that there is no upper end."
    ),
)  # fmt: skip
Decode = Callable[[list[int]], Any]


@dataclass(frozen=True)
class Side:
    """One side: a model by name, what it reads, and what becomes of its mixing.

    composition: of COMPOSITIONS. written: JSON of the interventions, for "intervention". corpus: prompts whose mean
    mixing is frozen, for "frozen".
    """

    model: str
    prompt: str
    composition: str = "as trained"
    written: str = ""
    corpus: tuple[str, ...] = ()

    def change(self, mean: Callable[[], MeanMixing]) -> Change | None:
        """The change it runs under; None = as trained.

        Args:
            mean: gives the mean mixing over the corpus.
        Raises:
            ValueError: what a person wrote is no list of interventions.
        """
        if self.composition == "as trained":
            return None
        if self.composition == "frozen":
            return Intervention(mode="mean", mean=mean())
        return uncomposed_twin() if self.composition == "uncomposed twin" else drafts.loaded(self.written)


@dataclass(frozen=True)
class Reading:
    """What stays the same while a person looks around in a comparison.

    str_tokens: of both sides. shapes: (layers, heads) of both. tokens, heads, unpaired: of Comparison, and in tokens
    next_a and next_b as text, their ids as next_id_a and next_id_b. The rest is as in Comparison.
    """

    str_tokens: tuple[list[str], list[str]]
    shapes: tuple[tuple[int, int], tuple[int, int]]
    pairs: list[tuple[int, int]]
    pairing: str
    same_ids: bool
    tokens: pd.DataFrame
    heads: pd.DataFrame
    unpaired: pd.DataFrame
    summary: Mapping[str, Any]

    @property
    def same_prompt(self) -> bool:
        return self.str_tokens[0] == self.str_tokens[1]

    def pair_of(self, position: int) -> int:
        """The number of the aligned pair at, or nearest to, a position of the first side."""
        return int(np.abs(self.tokens["position_a"].to_numpy() - position).argmin())

    def partner(self, layer: int, head: int) -> int | None:
        """The head of the second side that a head of the first is paired with, in the same layer; None = unpaired."""
        row = self.heads[(self.heads["layer"] == layer) & (self.heads["head_a"] == head)]
        return None if row.empty else int(row["head_b"].iloc[0])

    def opposite(self, layer: int, head: int) -> tuple[int, int]:
        """(layer, head) of the second side to show beside a head of the first: its partner, or the same numbers as
        far as the second side has them."""
        partner = self.partner(layer, head)
        layers, heads = self.shapes[1]
        return (min(layer, layers - 1), min(head, heads - 1)) if partner is None else (layer, partner)

    def by_head(self, table: pd.DataFrame, column: str) -> np.ndarray:
        """A column of a table of head pairs by the first side's heads, [layer, head]; nan where there is none."""
        values = np.full(self.shapes[0], np.nan)
        values[table["layer"].to_numpy(int), table["head_a"].to_numpy(int)] = table[column].to_numpy(float)
        return values


@dataclass(frozen=True)
class Place:
    """Where a person looks: a head of each side, and two aligned pairs of positions (rows of Reading.tokens)."""

    a: tuple[int, int]
    b: tuple[int, int]
    query: int
    key: int


@dataclass(frozen=True)
class PlaceReading:
    """What the two sides do at one aligned pair of positions.

    next: Comparison.next_tokens with the tokens' texts as token_a and token_b. heads: Comparison.heads_at.
    """

    next: pd.DataFrame
    heads: pd.DataFrame


# -- readings ----------------------------------------------------------------------------------------


def read_comparison(found: Comparison, decode: tuple[Decode, Decode]) -> Reading:
    """Everything that does not depend on where a person looks.

    Args:
        decode: of each side, token ids to text.
    """
    tokens = found.tokens.copy()
    for side, text in zip("ab", decode, strict=True):
        ids = tokens[f"next_{side}"]
        tokens = tokens.rename(columns={f"next_{side}": f"next_id_{side}"})
        tokens[f"next_{side}"] = [text([int(token)]) for token in ids]
    a, b = found.runs
    return Reading(
        str_tokens=(a.str_tokens, b.str_tokens),
        shapes=((a.cfg.n_layers, a.cfg.n_heads), (b.cfg.n_layers, b.cfg.n_heads)), pairs=found.pairs,
        pairing=found.pairing, same_ids=found.same_ids, tokens=tokens, heads=found.heads, unpaired=found.unpaired,
        summary=found.summary,
    )  # fmt: skip


def read_place(runs: Runs, reading: Reading, pair: int, decode: tuple[Decode, Decode]) -> PlaceReading:
    """Predictions and head distances at one aligned pair of positions, a row of the reading's tokens."""
    table = next_tokens(runs, reading.pairs[pair], NEXT_TOKENS, reading.same_ids)
    for side, text in zip("ab", decode, strict=True):
        table[f"token_{side}"] = ["" if pd.isna(token) else text([int(token)]) for token in table[f"id_{side}"]]
    return PlaceReading(table, row_distances(runs, reading.pairs, reading.heads, pair))


def most_changed_tokens(reading: Reading) -> pd.DataFrame:
    """All aligned positions, those with the largest divergence first (between vocabularies: change of the loss)."""
    table = reading.tokens.assign(loss_change=reading.tokens.loss_b - reading.tokens.loss_a)
    order = table.kl if reading.same_ids else table.loss_change.abs()
    columns = ["position_a", "position_b", "token", "loss_a", "loss_b", "loss_change", "kl", "next_a", "next_b"]
    return table.loc[order.sort_values(ascending=False, kind="stable").index, columns].reset_index(drop=True)


def most_changed_heads(reading: Reading) -> pd.DataFrame:
    """All head pairs, the most different first."""
    return reading.heads.sort_values("distance", ascending=False, kind="stable").reset_index(drop=True)
