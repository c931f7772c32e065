"""The two sides of the Compare page: a model, what becomes of its mixing, and a prompt; and the usual pairs at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import streamlit as st

from workbench.comparisons import COMPOSITIONS, Side
from workbench.links import Field, choice_field, flag_field, text_field
from workbench.pages.address import end
from workbench.pages.shared import EXAMPLES, SAVED, model_names
from workbench.pages.tables import plain

SAME_MODEL = "the model of A"
BUNDLED = {"demo/dcformer": "demo/transformer", "demo/transformer": "demo/dcformer"}
"""Of each bundled model the one that was trained on the same text with, or without, composition."""
TITLES = {
    "as trained": "as trained", "uncomposed twin": "uncomposed twin (M = I)", "frozen": "frozen to its mean",
    "intervention": "interventions as JSON",
}  # fmt: skip
PRESETS = {
    "twin": "its uncomposed twin", "frozen": "its mixing frozen", "pair": "the plain model", "prompt": "another prompt"
}  # fmt: skip


def side_fields() -> list[Field]:
    """What the URL says of both sides, beside the model and prompt of A; to be asked for after run_fields."""
    kinds = list(COMPOSITIONS)
    return [
        choice_field("compare a mixing", kinds, "a"), text_field("compare a json", "a-json"),
        choice_field("compare b model", [SAME_MODEL, *model_names()], "b-model"),
        choice_field("compare b mixing", kinds, "b", "uncomposed twin"), text_field("compare b json", "b-json"),
        flag_field("compare same prompt", "same-prompt", True), text_field("compare b prompt", "b-prompt"),
        flag_field("compare same heads", "same-heads"),
    ]  # fmt: skip


def choose_sides(name: str, prompt: str, names: list[str]) -> tuple[Side, Side, bool]:
    """Both sides, and whether two models are checkpoints of one training.

    Args:
        name, prompt: of side A, from the sidebar. names: of all models.
    """
    _presets(name, prompt)
    place_a, place_b = st.columns(2)
    with place_a, st.container(border=True, height="stretch"):
        st.markdown(f"**A** · {plain(name)}, on the prompt at the left")
        a = _side("a", name, prompt)
    with place_b, st.container(border=True, height="stretch"):
        st.markdown("**B**")
        chosen = st.selectbox("Model of B", [SAME_MODEL, *names], key="compare b model")
        other = name if chosen == SAME_MODEL else chosen
        same = other == name or not st.checkbox(
            "Checkpoints of one training: head h of A is head h of B", key="compare same heads",
            help="Otherwise heads of two models have nothing to do with each other, and are matched within each layer.",
        )  # fmt: skip
        b = _side("b", other, prompt)
        b = replace(b, prompt=_prompt_of_b(prompt))
    return a, b, not same


def _side(side: str, model: str, prompt: str) -> Side:
    kind = st.selectbox(
        f"Mixing of {side.upper()}", list(COMPOSITIONS), key=f"compare {side} mixing", format_func=TITLES.__getitem__,
        help="\n".join(f"- **{TITLES[kind]}**: {meaning}" for kind, meaning in COMPOSITIONS.items()),
    )  # fmt: skip
    if kind == "frozen":
        return Side(model, prompt, kind, corpus=tuple(EXAMPLES.values()))
    if kind != "intervention":
        return Side(model, prompt, kind)
    _offer_saved(side)
    written = st.text_area(
        f"Interventions of {side.upper()} as JSON", key=f"compare {side} json", height=100,
        help="What Download JSON on the Intervene page writes.",
    )  # fmt: skip
    if not written.strip():
        st.info(f"Paste the interventions of side {side.upper()}: the Intervene page saves them as JSON.")
        end()
    return Side(model, prompt, kind, written)


def _offer_saved(side: str) -> None:
    """A list of the changes that this session saved on the page Intervene; the chosen one is written out below."""
    saved: dict[str, str] = st.session_state.get(SAVED) or {}
    if not saved:
        return

    def take() -> None:
        if chosen := st.session_state[f"compare {side} saved"]:
            st.session_state[f"compare {side} json"] = chosen

    st.selectbox(
        f"Saved for {side.upper()}", ["", *saved], format_func=lambda one: saved.get(one, "choose a saved change"),
        key=f"compare {side} saved", on_change=take,
    )  # fmt: skip


def _prompt_of_b(prompt: str) -> str:
    if st.checkbox("Same prompt", key="compare same prompt"):
        return prompt
    other = st.text_area("Prompt of B", key="compare b prompt", height=100, help="Ctrl + Enter runs it.")
    if not other:
        st.info("Type what side B reads.", icon=":material/edit:")
        end()
    return other


# -- presets -----------------------------------------------------------------------------------------


def _presets(name: str, prompt: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("Compare A with")
        for preset, label in PRESETS.items():
            if preset == "pair" and name == "demo/transformer":
                label = "the composed model"
            st.button(label, key=f"compare with {preset}", on_click=_take, args=(preset, name, prompt))


def _take(preset: str, name: str, prompt: str) -> None:
    """Fill in both sides."""
    mixing_a = st.session_state["compare a mixing"] if preset == "prompt" else "as trained"
    filled: dict[str, Any] = {
        "compare a mixing": mixing_a, "compare b model": SAME_MODEL, "compare b mixing": "as trained",
        "compare same prompt": True, "compare same heads": False,
    }  # fmt: skip
    if preset == "twin":
        filled["compare b mixing"] = "uncomposed twin"
    elif preset == "frozen":
        filled["compare b mixing"] = "frozen"
    elif preset == "pair":
        filled["compare b model"] = BUNDLED.get(name, "demo/transformer")
    else:
        filled |= {"compare b mixing": mixing_a, "compare same prompt": False, "compare b prompt": _another(prompt)}
        filled["compare b json"] = st.session_state.get("compare a json", "")
    st.session_state.update(filled)


def _another(prompt: str) -> str:
    """The next of the example prompts."""
    examples = list(EXAMPLES.values())
    at = examples.index(prompt) + 1 if prompt in examples else 0
    return examples[at % len(examples)]
