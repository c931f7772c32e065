"""What a comparison looks like: head pairs in the overview, and the maps of one pair over aligned tokens.

Maps show aligned tokens only, so that the cells of both sides mean the same pair of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from workbench.comparisons import PlaceReading, Reading
from workbench.viewer import Cell, Labels, MapView, Panel, Window, block_around, max_abs
from workbench.viewer.view import visible_token
from workbench.views import UNITS

Maps = Mapping[str, Tensor]
"""Of one head, as Workbench.maps gives them."""
Aligned = tuple[np.ndarray, np.ndarray]
"""One map of each side over aligned tokens, as aligned_maps gives them."""


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
    values: Aligned, reading: Reading, kind: str, stage: str, selected: Cell | None, window: Window | None
) -> MapView:
    """The two heads' maps over aligned tokens and their difference, on one scale centred on 0.

    Args:
        values: the two maps. kind, stage: which these are: "scores" or "pattern", "raw" or "composed".
        selected, window: in aligned pairs, (query, key); window None = all of it.
    """
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


def aligned_maps(maps: tuple[Maps, Maps], reading: Reading, kind: str, stage: str) -> Aligned:
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


def strongest_key(values: Aligned, query: int) -> int:
    """The key, as an aligned pair, that is strongest in the rows of a query; itself where it sees nothing."""
    a, b = (of_side[query : query + 1] for of_side in values)
    found = strongest(a, b)
    return query if found is None else found[1]


def snap(values: Aligned, cell: Cell, window: Window | None) -> Cell:
    """The cell that a click means: in a reduced map the strongest one under the drawn pixel.

    Args:
        values: what aligned_maps gives. cell: the clicked pairs (query, key). window: what was shown; None = all.
    """
    (r0, r1), (c0, c1) = window or ((0, len(values[0])), (0, len(values[0])))
    rows, cols = block_around(cell[0], r0, r1), block_around(cell[1], c0, c1)
    found = strongest(*(of_side[rows, cols] for of_side in values))
    return cell if found is None else (rows.start + found[0], cols.start + found[1])
