"""A finished study on the Probes page: its words, its figures, its tables, its report."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from probes.probing.table import COLUMNS as PROBED
from probes.study import Finding, Study, findings, read_results
from probes.study.dynamic_share import COLUMNS as SHARES
from probes.study.run import CONFIG, FILES
from workbench.access import allowed_directory, allowed_store, store_folders
from workbench.links import Field, text_field
from workbench.pages.copy_python import copy_as_python
from workbench.pages.downloads import show_figure
from workbench.pages.shared import attempt
from workbench.pages.store_section import shown_folder
from workbench.pages.tables import plain, table
from workbench.scripts import study_script
from workbench.small_studies import studies_in
from workbench.study_report import study_figures, study_html

TABLE, FIGURES = "table of", "figures of"
"""Ends of the keys of what is looked at of a study."""
ANOTHER = "another folder"
MEANINGS = {
    "model": "name of the model in the study", "seed": "of folds, fakes, resamples and probes",
    "feature": "kind of feature", "layer": "layer; -1 = of the whole model", "where": "site or stage",
} | SHARES | PROBED  # fmt: skip
STUDIES_KEPT = 8


def shown_fields(key: str, name: str = "") -> list[Field]:
    """What the URL says of show_study with this key; name: start of the names there."""
    return [text_field(f"{key} {FIGURES}", f"{name}figures"), text_field(f"{key} {TABLE}", f"{name}table")]


def study_section() -> None:
    folder = _chosen()
    if folder is not None:
        show_study(folder, "study")


def show_study(folder: Path, key: str) -> None:
    """A study in a folder, or why there is none.

    Args:
        key: start of the widgets' keys.
    """
    study, tables, config, found = attempt(lambda: _read(folder))
    st.markdown(f"##### {plain(study.title)}")
    if study.question:
        st.markdown(plain(study.question))
    st.caption(_facts(study, config))
    copy_as_python(study_script(shown_folder(folder)), key=f"{key} python")
    _words(found, several=len(study.models) > 1)
    _figures(study, tables, key)
    _tables(tables, folder, key)


def _chosen() -> Path | None:
    """The folder of the study that is looked at; None, and a message, where none is named."""
    folders = store_folders()
    found = studies_in(*folders, *(folder / "studies" for folder in folders))
    known = {name: path for name, path in found.items() if allowed_directory(str(path), folders) is not None}
    if st.session_state.get("study chosen") not in (*known, ANOTHER):
        st.session_state["study chosen"] = next(iter(known), ANOTHER)
    choice = st.selectbox(
        "Study", [*known, ANOTHER], key="study chosen", persist_state="session",
        help="Those in the folders of studies, and those that come with the workbench.",
    )  # fmt: skip
    if choice != ANOTHER:
        return known[choice]
    typed = st.text_input("Folder that a study wrote", key="study folder", persist_state="session").strip()
    if not typed:
        st.info(
            "Type the folder of a finished study, or run one: `python -m workbench study run FILE.yaml`. Studies are "
            "opened in the workbench's runs and studies, and in the folders that `python -m workbench app --stores` "
            "was given."
        )
        return None
    return attempt(lambda: allowed_store(typed, folders))


Read = tuple[Study, dict[str, pd.DataFrame], dict[str, Any], list[Finding]]


def _read(folder: Path) -> Read:
    config = folder / CONFIG
    return _read_once(str(folder), config.stat().st_mtime_ns if config.is_file() else 0)


@st.cache_data(max_entries=STUDIES_KEPT, show_spinner=False)
def _read_once(folder: str, changed: int) -> Read:
    study, tables, config = read_results(folder)
    return study, tables, config, findings(tables["probing"], study) if "probing" in tables else []


def _facts(study: Study, config: dict[str, Any]) -> str:
    tokens = [f"{name}: {store['tokens']:,} tokens" for name, store in config["stores"].items()]
    about = [*tokens[:3], *([f"and {len(tokens) - 3} models more"] if len(tokens) > 3 else [])]
    folds = f"{study.folds} folds of whole documents, {100 * study.confidence:g}% intervals over documents"
    return plain(" · ".join([*about, ", ".join(study.data), folds]))


# -- words -------------------------------------------------------------------------------------------


def _words(found: list[Finding], several: bool) -> None:
    for title, wanted in (("What was found", True), ("What was not found", False)):
        told = [one for one in found if one.found == wanted]
        if told:
            st.markdown(f"###### {title}")
            st.markdown("\n".join(f"- {_sentences(one, several)}" for one in told))
    if found:
        st.caption(
            "Readable: better than every control with p below 0.05 after Holm's correction over all cells of a model. "
            "Mixing weights are computed from the residual stream and cannot hold more than it does: the comparison "
            "with it asks how much they expose. That something can be read does not say that the model uses it."
        )


def _sentences(one: Finding, several: bool) -> str:
    return (f"**{plain(one.model)}**: " if several else "") + plain(one.text)


# -- figures and tables ------------------------------------------------------------------------------


def _figures(study: Study, tables: dict[str, pd.DataFrame], key: str) -> None:
    parts = list(study_figures(study, tables))
    titles = list(dict.fromkeys(title for title, _ in parts))
    chosen = titles[0]
    if len(titles) > 1:
        at = f"{key} {FIGURES}"
        if st.session_state.get(at) not in titles:
            st.session_state[at] = titles[0]
        chosen = st.selectbox("Figures of", titles, key=at, persist_state="session")
    figures = [figure for title, figures in parts if title == chosen for figure in figures]
    for number, figure in enumerate(figures):
        show_figure(figure, key=f"{key} {chosen} {number}", name=f"{chosen}_{number}".replace(" ", "_"))


def _tables(tables: dict[str, pd.DataFrame], folder: Path, key: str) -> None:
    name = next(iter(tables))
    if len(tables) > 1:
        at = f"{key} {TABLE}"
        if st.session_state.get(at) not in tables:
            st.session_state[at] = name
        chosen = st.segmented_control(
            "Table", list(tables), required=True, key=at, label_visibility="collapsed", persist_state="session",
            format_func=lambda one: one.replace("_", " "),
        )  # fmt: skip
        name = chosen or name
    frame = tables[name]
    st.caption(f"{len(frame):,} rows; what a column means stands on its head.")
    columns = {column: st.column_config.Column(help=plain(MEANINGS.get(column, ""))) for column in frame}
    table(frame, FILES[name], key=f"{key} table {name}", columns=columns, height=320)
    st.download_button(
        "Download report", partial(study_html, folder), "report.html", "text/html", icon=":material/article:",
        on_click="ignore", key=f"{key} report",
        help="One HTML file that needs nothing else: words, figures, how it was made.",
    )  # fmt: skip
