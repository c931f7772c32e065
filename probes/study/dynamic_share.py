"""How much of each token's mixing depends on the tokens, by class of a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probes.per_sequence import PerSequence
from probes.store import Store
from probes.study.cells import place, read_flat

SIDES = {"query_part": "query", "key_part": "key"}
COLUMNS = {
    "layer": "layer",
    "site": "pre or post",
    "side": "query: Q(i) of the class's tokens as queries; key: K(j) as keys",
    "label": "name of the label",
    "class": "its class; all = every token",
    "share": "E_class ||Q(i) - E[Q]||^2 / E ||M||^2 (K for keys) in the centred split; expectations E over all tokens "
    "of the store, query and key drawn independently",
    "low": "lower end of the bootstrap interval over documents, with E[Q], E[K] and E ||M||^2 held fixed",
    "high": "upper end",
    "tokens": "how many tokens are of the class",
    "documents": "how many documents these are of",
}
"""Of the table. The token-weighted mean of `share` over a label's classes is the share of all its tokens."""


def dynamic_share(
    store: Store, bases: Mapping[tuple[int, str], NDArray], labels: Mapping[str, pd.Series], confidence: float = 0.95
) -> pd.DataFrame:
    """Shares of query and key part by class, with COLUMNS; they depend on nothing but the store's tokens.

    Args:
        store: with query_part or key_part at some layers and sites.
        bases: (layer, site) -> base, the constant I or I + W, [H, H].
        labels: name -> class of each token; None or NaN = none.
    Raises:
        ValueError: a store without parts or with those of one side of two, or a label of numbers.
    """
    for name, column in labels.items():
        if pd.api.types.is_float_dtype(column):
            raise ValueError(f"dynamic_share needs classes, and the label {name!r} is of numbers. Leave it out.")
    parts = [name for name in store.features if place(name)["feature"] in SIDES]
    if not parts:
        raise ValueError(f"{store.folder} has no query_part and no key_part. Harvest the feature 'parts' too.")
    if missing := [
        name for name in with_other_side(parts, store.manifest.model["config"]["sides"]) if name not in parts
    ]:
        raise ValueError(f"{store.folder} lacks {missing[0]}, and ||M|| is of both sides. Harvest it too.")
    documents = np.unique(store.table(["document"])["document"], return_inverse=True)[1]
    everything = {"all": {"all": np.ones(len(store), bool)}}
    classes = everything | {name: dict(_members(column)) for name, column in labels.items()}
    rows = []
    for (layer, site), names in _by_place(parts).items():
        deviations, size = _deviations(store, names, bases[layer, site])
        for side, squares in deviations.items():
            for label, members in classes.items():
                for of, member in members.items():
                    found = _mean(squares / size, member, documents, confidence)
                    rows.append({"layer": layer, "site": site, "side": side, "label": label, "class": of} | found)
    return pd.DataFrame(rows)[[*COLUMNS]]


def with_other_side(names: Sequence[str], sides: Sequence[str]) -> list[str]:
    """The parts among some features, those of the other side of the same place too.

    Args:
        sides: that the model's mixing depends on.
    """
    places = dict.fromkeys(name.partition("@")[2] for name in names if place(name)["feature"] in SIDES)
    return [f"{part}@{at}" for at in places for part, side in SIDES.items() if side in sides]


def _by_place(names: Sequence[str]) -> dict[tuple[int, str], list[str]]:
    found: dict[tuple[int, str], list[str]] = {}
    for name in names:
        at = place(name)
        found.setdefault((int(at["layer"]), str(at["where"])), []).append(name)
    return found


def _deviations(store: Store, names: Sequence[str], base: NDArray) -> tuple[dict[str, NDArray], float]:
    """Squared distance of every token's part from its mean, by side, [token]; and E ||M||^2 of the site."""
    constant, squares = np.asarray(base, dtype=np.float64).copy(), {}
    for name in names:
        part = read_flat(store.folder, name).astype(np.float64)
        mean = part.mean(0)
        squares[SIDES[str(place(name)["feature"])]] = np.square(part - mean).sum(1)
        constant += _square_matrix(mean, len(base), store.features[name].shape)
    size = float(np.square(constant).sum() + sum(values.mean() for values in squares.values()))
    return squares, size


def _square_matrix(mean: NDArray, heads: int, shape: Sequence[int]) -> NDArray:
    """A part's mean as [H, H]; with groups, block by block."""
    if len(shape) == 2:
        return mean.reshape(heads, heads)
    whole = np.zeros((heads, heads))
    for group, block in enumerate(mean.reshape(shape)):
        here = slice(group * shape[1], (group + 1) * shape[1])
        whole[here, here] = block
    return whole


def _members(column: pd.Series) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    for of in sorted(column.dropna().unique(), key=str):
        yield str(of), (column == of).to_numpy(dtype=bool, na_value=False)


def _mean(values: NDArray, member: NDArray[np.bool_], documents: NDArray, confidence: float) -> dict[str, float]:
    size = int(documents.max()) + 1
    counts = np.bincount(documents[member], minlength=size).astype(np.float64)
    sums = np.bincount(documents[member], weights=values[member], minlength=size).astype(np.float64)
    over = PerSequence(sums, counts)
    low, high = over.interval(confidence)
    return {
        "share": over.mean, "low": low, "high": high, "tokens": int(member.sum()), "documents": int((counts > 0).sum())
    }  # fmt: skip
