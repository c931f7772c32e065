"""From a store to what probe_cells takes: cells of every feature, labels, residual streams. Loaded where needed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probes.probing import ProbeCell
from probes.store import Store

RESIDUAL = "residual"


def place(name: str) -> dict[str, str | int]:
    """query_part@3.post -> feature, layer (-1 where it has none), where."""
    kind, _, rest = name.partition("@")
    layer, _, where = rest.partition(".")
    return {"feature": kind, "layer": int(layer) if layer else -1, "where": where}


def feature_cells(store: Store, names: Sequence[str], random_init: Store | None = None) -> list[ProbeCell]:
    """A cell for each feature of a store; those of a layer refer to the residual stream entering it.

    Args:
        random_init: the store of the same model with random weights over the same tokens.
    """
    return [
        ProbeCell(
            place(name), loader(store, name), residual=_residual(name, store),
            random_init=None if random_init is None else loader(random_init, name),
        )
        for name in names
    ]  # fmt: skip


def residuals(store: Store, names: Sequence[str]) -> dict[str, partial[NDArray]]:
    """The residual streams that features of these names refer to."""
    found = dict.fromkeys(_residual(name, store) for name in names)
    return {name: loader(store, name) for name in found if name is not None}


def loader(store: Store, name: str) -> partial[NDArray]:
    return partial(read_flat, store.folder, name)


def read_flat(folder: Path, name: str) -> NDArray:
    """A feature's values, [token, feature] in float32."""
    values = _opened(folder).read(name)
    return np.asarray(values, dtype=np.float32).reshape(len(values), -1)


def label_columns(
    store: Store, names: Sequence[str], numbers: Sequence[str], least_documents: int | None
) -> dict[str, pd.Series]:
    """Columns of the token table, as numbers where this is asked for.

    Args:
        least_documents: classes in fewer documents are taken for no label; None = all stay.
    Raises:
        ValueError: a column that is to be read as numbers and holds none.
    """
    table = store.table(list(dict.fromkeys(["document", *names])))
    return {
        name: _as_numbers(name, table[name]) if name in numbers
        else _frequent(table[name], table.document, least_documents)
        for name in names
    }  # fmt: skip


def _as_numbers(name: str, column: pd.Series) -> pd.Series:
    try:
        return column.astype("float64")
    except (TypeError, ValueError):
        raise ValueError(
            f"The label {name!r} holds classes ({column.dropna().iloc[0]!r}) and was named under numbers. Take it out "
            "there."
        ) from None


def _frequent(column: pd.Series, documents: pd.Series, least: int | None) -> pd.Series:
    if least is None or pd.api.types.is_float_dtype(column):
        return column
    standing = documents.groupby(column, observed=True).nunique()
    return column.astype(object).where(column.isin(standing.index[standing >= least]), None)


def _residual(name: str, store: Store) -> str | None:
    """The residual stream that a feature of a layer is a function of, where the store has it."""
    at = place(name)
    found = f"{RESIDUAL}@{at['layer']}"
    return found if at["feature"] != RESIDUAL and found in store.features else None


@lru_cache(8)
def _opened(folder: Path) -> Store:
    return Store.open(folder)
