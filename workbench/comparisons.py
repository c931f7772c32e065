"""Two runs side by side, as the Compare page shows them: numbers by token, head pairs, maps, predictions.

Everything is measured by probes.comparison; differences are b - a. Maps show aligned tokens only, so that the cells of
both sides mean the same pair of tokens. Axes: T position, L layer, N head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from probes import Intervention, MeanMixing, uncomposed_twin
from probes.comparison import Comparison
from probes.interventions import Change
from probes.side_by_side import Runs, next_tokens, row_distances
from workbench import drafts
from workbench.viewer import Cell, Labels, MapView, Panel, Window, block_around, max_abs
from workbench.viewer.view import visible_token
from workbench.views import UNITS

COMPOSITIONS = {
    "as trained": "with the mixing that the model has",
    "uncomposed twin": "the same weights with M = I everywhere; off the distribution that they were trained for",
    "frozen": "mixing frozen to its mean over the example prompts: nothing depends on tokens any more",
    "intervention": "under interventions written as JSON, as the Intervene page saves them",
}
"""What can become of a side's mixing."""
NEXT_TOKENS = 5
"""Most likely next tokens of each side that are shown."""
Maps = Mapping[str, Tensor]
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


# -- views -------------------------------------------------------------------------------------------


def pair_overview(reading: Reading, place: PlaceReading, position: int, selected: Cell | None) -> MapView:
    """Layer x head of the first side, coloured by how far the composed pattern is from its partner's.

    Left: the mean over all aligned queries, right: at one of them. Heads without a partner are absent.

    Args:
        position: of the first side, for the title. selected: (layer, head) of the first side.
    """
    layers, heads = reading.shapes[0]
    tables = {"mean over aligned queries": reading.heads, f"at query {position}": place.heads}
    panels = [
        Panel(f"A against B, {title}", reading.by_head(table, "distance"), unit="L1 distance", signed=False)
        for title, table in tables.items()
    ]
    return MapView(
        panels=panels, rows=Labels("layer", [f"L{layer}" for layer in range(layers)]),
        cols=Labels("head", [f"H{head}" for head in range(heads)]), selected=selected,
        absent="unpaired: no head of B belongs to it",
    )  # fmt: skip


def pair_maps(
    maps: tuple[Maps, Maps], reading: Reading, kind: str, stage: str, selected: Cell | None, window: Window | None
) -> MapView:
    """The two heads' maps over aligned tokens and their difference, on one scale centred on 0.

    Args:
        maps: each side's four maps, as Workbench.maps gives them. kind: "scores" or "pattern". stage: "raw" or
            "composed".
        selected, window: in aligned pairs, (query, key); window None = all of it.
    """
    values = aligned_maps(maps, reading, kind, stage)
    triple = {"A": values[0], "B": values[1], "B - A": values[1] - values[0]}
    scale = max_abs(*triple.values())
    size = (len(reading.pairs),) * 2
    rows, cols = window or ((0, size[0]), (0, size[1]))
    panels = [
        Panel(f"{kind} {stage}, {name}", shown[slice(*rows), slice(*cols)], scale=scale, unit=UNITS[kind])
        for name, shown in triple.items()
    ]
    names = pair_names(reading)
    return MapView(
        panels=panels, rows=Labels("query", names), cols=Labels("key", names), selected=selected, window=window,
        size=size, absent="not visible to this query",
    )  # fmt: skip


def aligned_maps(maps: tuple[Maps, Maps], reading: Reading, kind: str, stage: str) -> tuple[np.ndarray, np.ndarray]:
    """One map of each side over aligned tokens, [pair, pair]; nan where the query does not see the key."""
    found = []
    for side, of_head in enumerate(maps):
        at = np.array([pair[side] for pair in reading.pairs])
        values = of_head[f"{kind}_{stage}"].numpy()[np.ix_(at, at)]
        seen = np.isfinite(of_head["scores_composed"].numpy()[np.ix_(at, at)])
        found.append(np.where(seen, values, np.nan))
    return found[0], found[1]


def pair_names(reading: Reading) -> list[str]:
    """The aligned tokens; between two prompts with the position in A / in B."""
    tokens = reading.str_tokens[0]
    return [tokens[a] if reading.same_prompt else f"{tokens[a]} {a}/{b}" for a, b in reading.pairs]


def places_named(reading: Reading) -> list[str]:
    """Of each aligned pair: where it stands, its token, and what each side reads next."""
    a, b = ([*map(visible_token, tokens), "the end"] for tokens in reading.str_tokens)
    if reading.same_prompt:
        return [f"after {i} {a[i]}: {a[i + 1]}" for i, _ in reading.pairs]
    return [f"after {a[i]} (A {i}, B {j}): {a[i + 1]} in A, {b[j + 1]} in B" for i, j in reading.pairs]


def strongest(a: np.ndarray, b: np.ndarray) -> Cell | None:
    """Where two pieces of aligned maps differ most; where they are equal, where they are largest; None = unseen."""
    seen = np.isfinite(a) & np.isfinite(b)
    if not seen.any():
        return None
    gap = np.where(seen, np.abs(b - a), -1.0)
    size = gap if gap.max() > 0 else np.where(seen, np.abs(a), -1.0)
    row, col = divmod(int(size.argmax()), size.shape[1])
    return row, col


def strongest_key(values: tuple[np.ndarray, np.ndarray], query: int) -> int:
    """The key, as an aligned pair, that is strongest in the rows of a query; itself where it sees nothing."""
    a, b = (of_side[query : query + 1] for of_side in values)
    found = strongest(a, b)
    return query if found is None else found[1]


def snap(values: tuple[np.ndarray, np.ndarray], cell: Cell, window: Window | None) -> Cell:
    """The cell that a click means: in a reduced map the strongest one under the drawn pixel.

    Args:
        values: what aligned_maps gives. cell: the clicked pairs (query, key). window: what was shown; None = all.
    """
    (r0, r1), (c0, c1) = window or ((0, len(values[0])), (0, len(values[0])))
    rows, cols = block_around(cell[0], r0, r1), block_around(cell[1], c0, c1)
    found = strongest(*(of_side[rows, cols] for of_side in values))
    return cell if found is None else (rows.start + found[0], cols.start + found[1])
