"""The list of interventions on the Intervene page: rows that a person fills in, or loads as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from model import Capture
from model.config import DCFormerConfig
from model.mixing import BRANCHES
from probes.interventions import MODES, Change, Combined, Intervention, to_json
from workbench import drafts
from workbench.links import Field, choice_field, integer_field, number_field
from workbench.pages.address import restored
from workbench.pages.shared import EXAMPLES, told, waited, workbench
from workbench.viewer.view import visible_token

CORPORA = {"the example prompts": tuple(EXAMPLES.values()), "this prompt": ()}
"""What mode "mean" can average over; () stands for the prompt."""
ALL = "all"
WRITTEN = "change written"
"""Key of the JSON of the change that is shown, in st.session_state: what a link and other pages take over."""
FIRST_ROW = 0


def change_form(name: str, prompt: str, run: Capture) -> Change | None:
    """The change that the rows describe; None, and a message, where there is none or it cannot be made."""
    _take_link(run.cfg)
    rows = st.session_state.setdefault("change_rows", {FIRST_ROW: None})
    parts: list[Change] = []
    for number, (row, fixed) in enumerate(list(rows.items()), start=1):
        with st.container(border=True, gap="small"):
            part = _form_row(number, row, name, prompt, run) if fixed is None else _fixed_row(number, row, fixed)
        if part is not None:
            parts.append(part)
    change = _joined(parts) if len(parts) == len(rows) else None
    _buttons(run.cfg, change)
    if not rows:
        st.info("Nothing is changed yet. Add an intervention.", icon=":material/add:")
    return change


def mean_prompts(corpus: str, prompt: str) -> tuple[str, ...]:
    """The prompts of one of CORPORA."""
    return CORPORA[corpus] or (prompt,)


def mode_inputs(
    key: str, prompt: str, places: Sequence[Any], modes: Sequence[str], label: str = "Mode"
) -> dict[str, Any]:
    """A mode, and what that mode takes: fields as in drafts, and for "mean" the prompts as `corpus`.

    Args:
        key: start of the widgets' keys. places: two columns. modes: that are offered, the first one at the start.
    """
    mode = places[0].selectbox(
        label, modes, format_func=lambda m: drafts.MODE_TITLES[m], key=f"{key} mode", persist_state="session",
        help="\n".join(f"- **{drafts.MODE_TITLES[mode]}**: {MODES[mode]}" for mode in modes),
    )  # fmt: skip
    fields: dict[str, Any] = {"mode": mode}
    if mode == "mean":
        corpus = places[1].selectbox("Mean over", list(CORPORA), key=f"{key} corpus", persist_state="session")
        return fields | {"corpus": mean_prompts(corpus, prompt)}
    if mode in drafts.TAKES:
        fields[drafts.TAKES[mode]] = _number(drafts.TAKES[mode], key, places[1])
    else:
        places[1].caption(f"{MODES[mode].capitalize()}.")
    return fields


def mode_fields(key: str, modes: Sequence[str]) -> list[Field]:
    """What a URL holds of mode_inputs with this key."""
    low, high = drafts.DOSES
    return [
        choice_field(f"{key} mode", list(modes)), choice_field(f"{key} corpus", list(CORPORA)),
        number_field(f"{key} amount", default=0.5, low=low, high=high), number_field(f"{key} value", default=0.0),
        integer_field(f"{key} seed", default=0, low=0, high=2**31 - 1),
    ]  # fmt: skip


def _number(field: str, key: str, place: Any) -> float:
    key, kept = f"{key} {field}", "session"
    if field == "amount":
        st.session_state.setdefault(key, 0.5)
        return place.slider(
            "Dose (0 takes away, 1 changes nothing)", *drafts.DOSES, step=0.05, key=key, persist_state=kept
        )
    if field == "seed":
        return place.number_input("Seed", 0, 2**31 - 1, step=1, key=key, persist_state=kept)
    st.session_state.setdefault(key, 0.0)
    return place.number_input("Value of each chosen entry of M", step=0.1, format="%.3f", key=key, persist_state=kept)


# -- rows --------------------------------------------------------------------------------------------


def _form_row(number: int, row: int, name: str, prompt: str, run: Capture) -> Intervention | None:
    cfg, key = run.cfg, f"change {row}"
    top = st.columns([4, 5, 1], vertical_alignment="bottom")
    fields = mode_inputs(key, prompt, top[:2], list(drafts.FORM_MODES), f"Intervention {number}: mode")
    _remove_button(number, row, top[2])
    where, heads = st.columns(3), st.columns(3)
    fields["layers"] = _choice(where[0], "Layers", range(cfg.n_layers), f"{key} layers")
    fields["sites"] = _choice(where[1], "Sites", cfg.mixed_sites, f"{key} sites")
    fields["branches"] = _choice(where[2], "Branches", BRANCHES, f"{key} branches", "all that depend on tokens")
    fields["sources"] = _choice(heads[0], "Source heads", range(cfg.n_heads), f"{key} sources")
    fields["targets"] = _choice(heads[1], "Target heads", range(cfg.n_heads), f"{key} targets")
    fields["positions"] = position_choice(heads[2], run, f"{key} positions")
    mean = None
    try:
        if fields["mode"] == "mean":
            mean = waited(lambda: workbench().mean_mixing(name, fields["corpus"]))
            st.caption(f"Frozen to the mean over the {mean.tokens} tokens of {_prompts(fields['corpus'], prompt)}.")
        return drafts.intervention(fields, mean)
    except ValueError as error:
        st.error(told(error), icon=":material/error:")
        return None


def _prompts(corpus: tuple[str, ...], prompt: str) -> str:
    return "this prompt" if corpus == (prompt,) else f"the {len(corpus)} example prompts"


def _fixed_row(number: int, row: int, part: Intervention) -> Intervention:
    top = st.columns([9, 1], vertical_alignment="top")
    top[0].caption(f"Intervention {number}, as loaded: {MODES[part.mode]}. The form cannot show it; it is applied.")
    _remove_button(number, row, top[1])
    text = to_json(part)
    st.code(text if len(text) <= SHOWN else f"{text[:SHOWN]} ...", language=None, wrap_lines=True)
    return part


SHOWN = 300
"""Characters of a loaded intervention that are shown."""


def _choice(place: Any, label: str, options: Sequence[Any], key: str, empty: str = ALL) -> list[Any]:
    # what was chosen for another model stays in the list, so that the refusal can name it
    chosen = [item for item in st.session_state.get(key, ()) if item not in options]
    return place.multiselect(label, [*options, *chosen], key=key, placeholder=empty, persist_state="session")


def position_choice(place: Any, run: Capture, key: str) -> list[int]:
    """Token positions, shown with their tokens; [] = all."""
    names = [f"{at}: {visible_token(token)}" for at, token in enumerate(run.str_tokens)]
    options = list(range(max([len(names) - 1, *st.session_state.get(key, ())]) + 1))
    return place.multiselect(
        "Token positions", options, key=key, placeholder=ALL, persist_state="session",
        format_func=lambda at: names[at] if at < len(names) else f"{at}: no such token",
    )  # fmt: skip


def _joined(parts: list[Change]) -> Change | None:
    return None if not parts else parts[0] if len(parts) == 1 else Combined(tuple(parts))


# -- buttons -----------------------------------------------------------------------------------------


def _remove_button(number: int, row: int, place: Any) -> None:
    place.container(horizontal=True, horizontal_alignment="right").button(
        "", icon=":material/delete:", key=f"remove {row}", help=f"Remove intervention {number}", on_click=_remove,
        args=(row,),
    )  # fmt: skip


def _buttons(cfg: DCFormerConfig, change: Change | None) -> None:
    with st.container(horizontal=True):
        st.button("Add an intervention", icon=":material/add:", on_click=_add, args=(None,), key="add")
        st.download_button(
            "Download JSON", "" if change is None else to_json(change), "interventions.json", "application/json",
            icon=":material/download:", disabled=change is None, on_click="ignore",
        )  # fmt: skip
        with st.popover("Load JSON", icon=":material/upload:"):
            st.text_area("Interventions as JSON", key="change_json", height=160, persist_state="session")
            st.button("Load", on_click=_load, args=(cfg,), type="primary", key="load")
    if error := st.session_state.pop("change_error", None):
        st.error(error, icon=":material/error:")


def _remove(row: int) -> None:
    st.session_state.change_rows.pop(row, None)


def _add(fixed: Intervention | None) -> None:
    row = st.session_state["last_row"] = st.session_state.get("last_row", FIRST_ROW) + 1
    st.session_state.change_rows[row] = fixed


def _take_link(cfg: DCFormerConfig) -> None:
    """Where the page was opened by a link that says a change, make that the rows."""
    written = st.session_state.get(WRITTEN)
    if restored() and written:
        try:
            _put_in_place(written, cfg)
        except ValueError as error:
            st.warning(f"The link says a change that cannot be made here: {told(error)}", icon=":material/link_off:")


def _load(cfg: DCFormerConfig) -> None:
    """Put loaded interventions in the place of the rows; leave them where there is an error."""
    try:
        _put_in_place(st.session_state.change_json, cfg)
    except ValueError as error:
        st.session_state.change_error = told(error)


def _put_in_place(written: str, cfg: DCFormerConfig) -> None:
    change = drafts.loaded(written)
    change.check(cfg)
    st.session_state.change_rows = {}
    for part in change.parts():
        assert isinstance(part, Intervention)  # from_json makes nothing else
        fields = drafts.form_fields(part)
        _add(part if fields is None else None)
        row = st.session_state.last_row
        for name, value in (fields or {}).items():
            st.session_state[f"change {row} {name}"] = value
