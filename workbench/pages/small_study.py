"""A small study on the Probes page: a form, a run that can be cancelled, and its result as any study's."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from model import list_models
from probes.tasks import RULES
from workbench.jobs import Cancelled, Job
from workbench.pages.address import restored
from workbench.pages.job_progress import show_job
from workbench.pages.shared import attempt, told, workbench
from workbench.pages.study_section import show_study
from workbench.small_studies import LONGEST_S, PASTED, PROBES, SmallStudy, feature_names, label_names

WRITTEN = "small study written"
"""Key of what the form says, as JSON, in st.session_state: what a link takes over."""
TASKS, TEXT = "in-context task rows", "pasted text"
MOST_CHARACTERS = 200_000
STARTS_WITH = ("query_part@3.post", "key_part@3.post")


@dataclass
class Asked:
    """A study of this session. stages: what its job has told so far."""

    request: SmallStudy
    job: Job[Path]
    stages: list[str] = field(default_factory=list)

    def said(self, done: int, total: int) -> str:
        """What the job is at."""
        if total:
            return f"{done} of {total} fits"
        stage = self.stages[-1] if self.stages else "preparing"
        return f"{stage[0].upper()}{stage[1:]} ..."


def small_study_section() -> None:
    _take_link()
    request = _request()
    st.session_state[WRITTEN] = json.dumps(asdict(request))
    asked: Asked | None = st.session_state.get("small study")
    busy = asked is not None and asked.job.running
    with st.expander("The same study as a file", icon=":material/description:"):
        st.caption(
            "Save it as study.yaml and run it with `python -m workbench study run study.yaml`."
            + (f" Save the pasted text as {PASTED} beside it, and run it there." if request.text is not None else "")
        )
        st.code(request.yaml(), language="yaml")
    if st.button("Run", icon=":material/play_arrow:", type="primary", disabled=busy, key="run study"):
        st.session_state["small study"] = _start(request)
        st.rerun()  # so that the button is drawn as one that cannot be pressed twice
    if asked is None:
        st.info(f"A study here takes at most about {LONGEST_S} s. Larger ones run from the command line.")
    elif busy:
        show_job(
            asked.job, "cancel study", asked.said, cancelling="Cancelling after the piece in hand ...",
            waiting="Waiting for another job to end ...",
        )  # fmt: skip
    else:
        _show(asked, request)


def _take_link() -> None:
    """Where the page was opened by a link that says a study, put it into the form, as far as it can be asked for."""
    written = st.session_state.get(WRITTEN)
    if not (restored() and written):
        return
    try:
        said = SmallStudy.read(written)
    except ValueError as error:
        st.warning(f"The link says a study that cannot be read: {told(error)}", icon=":material/link_off:")
        return
    corpus = TASKS if said.text is None else TEXT
    asked = {
        "small model": said.model, "small corpus": corpus, "small text": said.text or "", "small rows": said.rows,
        "small families": list(said.families), f"small features {said.model}": list(said.features),
        f"small labels {corpus}": list(said.labels), "small probes": list(said.probes), "small kept": said.per_document,
        "small shares": said.dynamic_share,
    }  # fmt: skip
    for key, value in asked.items():
        st.session_state[key] = value


# -- the form ----------------------------------------------------------------------------------------


def _request() -> SmallStudy:
    """What the controls say."""
    with st.container(border=True):
        top = st.columns([2, 2, 3])
        model = top[0].selectbox("Model", list_models(), key="small model", persist_state="session")
        corpus = top[1].selectbox("Corpus", [TASKS, TEXT], key="small corpus", persist_state="session")
        text = _text() if corpus == TEXT else None
        families, rows = _tasks(top[2]) if corpus == TASKS else ((), 1)
        features = _features(model)
        below = st.columns([3, 2, 2], vertical_alignment="bottom")
        labels = _several(below[0], "Labels", label_names(corpus == TEXT), f"small labels {corpus}", 1)
        probes = _several(below[1], "Probes", list(PROBES), "small probes", 1)
        st.session_state.setdefault("small kept", 40)
        kept = below[2].number_input("Tokens kept of a document", 5, 1000, step=5, key="small kept",
                                     persist_state="session")  # fmt: skip
        has_parts = any("_part@" in name for name in features)
        shares = st.checkbox(
            "Measure the dynamic share by class too", key="small shares", persist_state="session",
            disabled=not has_parts, help="How much of each token's mixing depends on the tokens; it needs a part.",
        )  # fmt: skip
    return SmallStudy(model, features, labels, probes, families, rows, text, int(kept), shares and has_parts)


def _tasks(place: Any) -> tuple[tuple[str, ...], int]:
    families, rows = place.columns([3, 1])
    chosen = families.multiselect(
        "Task families", sorted({rule.family for rule in RULES.values()}), key="small families", placeholder="all",
        persist_state="session",
    )  # fmt: skip
    return tuple(chosen), int(
        rows.number_input("Rows", 1, 8, step=1, key="small rows", persist_state="session", help="Of each rule.")
    )


def _text() -> str:
    return st.text_area(
        "Text", height=160, key="small text", max_chars=MOST_CHARACTERS, persist_state="session",
        placeholder="Paste a text. Paragraphs, between empty lines, are its documents.",
    )  # fmt: skip


def _features(model: str) -> tuple[str, ...]:
    offered = feature_names(attempt(lambda: workbench().model(model)).cfg)
    key = f"small features {model}"
    st.session_state.setdefault(key, [name for name in STARTS_WITH if name in offered] or ["residual@1"])
    return tuple(st.multiselect("Features", offered, key=key, persist_state="session"))


def _several(place: Any, label: str, options: list[str], key: str, first: int) -> tuple[str, ...]:
    """Some of the options, at the start the first ones."""
    st.session_state.setdefault(key, options[:first])
    return tuple(place.multiselect(label, options, key=key, persist_state="session"))


# -- running -----------------------------------------------------------------------------------------


def _start(request: SmallStudy) -> Asked:
    """Refuse what cannot run while the person still looks at it; then begin."""
    # the folder goes when the session does; a request has one inside it, in which it goes on
    if "study_folder" not in st.session_state:
        st.session_state.study_folder = tempfile.TemporaryDirectory()
    digest = hashlib.sha256(repr(astuple(request)).encode()).hexdigest()[:16]
    inside = Path(st.session_state.study_folder.name) / digest
    study = attempt(lambda: request.study(inside))
    stages: list[str] = []
    return Asked(request, workbench().start_study(study, inside / "study", stages.append), stages)


def _show(asked: Asked, now: SmallStudy) -> None:
    try:
        folder = attempt(asked.job.value)
    except Cancelled:
        done, total = asked.job.progress
        at = f"after {done} of {total} fits" if total else "before any fit"
        st.warning(f"Cancelled {at}. What is done is kept: the same study goes on from there.")
        return
    if asked.request != now:
        st.caption("The settings above have changed since this study ran.")
    show_study(folder, "small")
