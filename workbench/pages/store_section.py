"""A store on the Probes page: what a harvest kept, and the first rows of its token table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from probes.store import Store
from workbench.access import allowed_store, store_folders
from workbench.pages.copy_python import copy_as_python
from workbench.pages.shared import attempt
from workbench.pages.tables import plain, table
from workbench.scripts import store_script
from workbench.viewer.view import visible_token

ROOT = Path(__file__).parents[2]
ROWS = 50
MIB = 2**20


def store_section() -> None:
    store = chosen_store("Its features, labels and first rows are shown.")
    if store is None:
        return
    _numbers(store)
    copy_as_python(store_script(shown_folder(Path(store.folder)), ROWS))
    _features(store)
    _labels(store)
    _rows(store)


def chosen_store(what: str) -> Store | None:
    """The store whose folder is typed; None, and a message, where none is.

    Args:
        what: sentence that says what the section does with it.
    """
    typed = st.text_input("Folder that a harvest wrote", key="store folder", persist_state="session").strip()
    if not typed:
        st.info(
            f"Type the folder of a store. {what} `python -m workbench harvest --data corpus.txt --out runs/store` "
            "writes one, and a study keeps its own in its subfolder stores. Stores are opened in the workbench's runs "
            "and studies, and in the folders that `python -m workbench app --stores` was given."
        )
        return None
    return attempt(lambda: Store.open(allowed_store(typed, store_folders())))


def shown_folder(folder: Path) -> str:
    """A folder as a script names it: from the workbench's own folder where it lies there."""
    return str(folder.relative_to(ROOT)) if folder.is_relative_to(ROOT) else str(folder)


def _numbers(store: Store) -> None:
    corpus, model = store.manifest.corpus, store.manifest.model
    st.markdown(f"##### {plain(Path(store.folder).name)}")
    size = sum(entry["bytes"] for shard in store.manifest.shards for entry in shard.files.values())
    shown = {
        "tokens kept": f"{len(store):,}", "tokens read": f"{corpus['tokens']:,}",
        "documents": f"{corpus['documents']:,}", "features": f"{len(store.features):,}",
        "size": f"{size / MIB:,.1f} MiB",
    }  # fmt: skip
    for place, (label, value) in zip(st.columns(len(shown)), shown.items(), strict=True):
        place.metric(label, value)
    weights = f"{store.model_name}, weights {model['weights_sha256'][:12]}, {model['dtype']}"
    source = ", ".join(Path(str(name)).name for name in corpus.get("files", [])) or _settings(corpus)
    st.caption(plain(f"Model: {weights}. Corpus: {corpus['kind']}{f' ({source})' if source else ''}."))


def _settings(corpus: Any) -> str:
    """What task rows were asked for, shortly."""
    told = {name: corpus[name] for name in ("name", "rows", "seed", "split") if name in corpus}
    rules = [f"{len(corpus['rules'])} rules"] if "rules" in corpus else []
    return ", ".join([*rules, *(f"{name} {value}" for name, value in told.items())])


def _features(store: Store) -> None:
    rows = [
        {"name": one.name, "shape": " × ".join(map(str, one.shape)) or "1", "dtype": one.dtype, "unit": one.unit,
         "stored as": one.stored_as, "meaning": one.meaning}
        for one in store.manifest.features
    ]  # fmt: skip
    st.markdown("###### Features of every token")
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", height=_height(len(rows)), key="store features")


def _labels(store: Store) -> None:
    if not store.labels:
        st.caption("This store has no labels beside token, document and position.")
        return
    rows = [
        {"name": name, "kind": getattr(one, "kind", "class"), "meaning": one.meaning}
        for name, one in store.labels.items()
    ]  # fmt: skip
    st.markdown("###### Labels")
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", height=_height(len(rows)), key="store labels")


def _rows(store: Store) -> None:
    st.markdown("###### Tokens")
    shown = attempt(lambda: store.table(rows=slice(0, ROWS)))
    shown["token"] = shown.token.astype(str).map(visible_token)
    st.caption(f"The first {len(shown)} of {len(store):,} rows.")
    table(shown, "tokens", key="store tokens", columns={}, height=320)


def _height(rows: int) -> int:
    """In pixels, of a table that scrolls beyond eight rows."""
    return 35 * (min(rows, 8) + 1) + 3
