"""Generation as it happens: text, speeds, the composition of each new token; then the tokens as a way to Explore."""

from __future__ import annotations

import time
from dataclasses import dataclass

import streamlit as st
import torch

from model import HookedDCFormer
from model.backends.fallbacks import fallback_messages
from model.config import dtype_name
from workbench import views
from workbench.generating import (
    GenerationRequest,
    Transcript,
    memory_in_use,
    memory_in_words,
    place_of_token,
)
from workbench.generation_views import growth_view, most_composed, shades, token_view
from workbench.jobs import Cancelled, Job
from workbench.pages.copy_python import copy_as_python
from workbench.pages.downloads import show_maps
from workbench.pages.shared import attempt
from workbench.pages.tables import plain
from workbench.scripts import generation_script
from workbench.session import Workbench
from workbench.viewer.component import map_viewer, read_event
from workbench.viewer.token_strip import token_strip
from workbench.viewer.view import visible_token

POLL_S = 0.4
LONGEST = 100_000
TEXT_PX = 150
TOKEN_MAP_PX = 260
GROWTH_PX = 170


@dataclass
class Asked:
    """A generation of this session."""

    request: GenerationRequest
    transcript: Transcript
    job: Job[Transcript]
    began: float
    ended: float | None = None

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.began


def generate_section(bench: Workbench, name: str) -> None:
    """The request, and what has come of it."""
    asked: Asked | None = st.session_state.get("generation")
    if asked is not None and asked.request.model != name:
        asked.job.cancel()
        asked = st.session_state.generation = None
    _jump(bench, asked)
    busy = asked is not None and asked.job.running
    request = _request(name)
    if st.button("Generate", type="primary", icon=":material/play_arrow:", disabled=busy, key="generate"):
        st.session_state["full shown"] = None
        st.session_state.generation = _start(bench, request)
        st.rerun()  # so that the button is drawn as one that cannot be pressed twice
    if asked is None:
        st.info("Generated text appears here token by token, with the mixing of heads at each.")
        return
    model = attempt(lambda: bench.model(name))
    if busy:
        st.fragment(_live, run_every=POLL_S)(asked, model)
    else:
        _done(asked, model, request)


def _request(name: str) -> GenerationRequest:
    prompt = st.text_area("Prompt", height=100, key="full prompt")
    columns = st.columns(4)
    tokens = columns[0].number_input("New tokens", 1, LONGEST, step=1, key="full tokens")
    temperature = columns[1].number_input(
        "Temperature", 0.0, 10.0, step=0.1, key="full temperature", help="0 takes the most likely token each time."
    )
    greedy = temperature == 0
    top_k = columns[2].number_input(
        "Top k", 0, 1_000_000, step=1, key="full top k", disabled=greedy, help="Draw from the k likeliest; 0 = all."
    )
    seed = columns[3].number_input("Seed", 0, 2**31 - 1, step=1, key="full seed", disabled=greedy)
    return GenerationRequest(
        name, prompt, int(tokens), float(temperature), None if greedy or not top_k else int(top_k), seed=int(seed)
    )


def _start(bench: Workbench, request: GenerationRequest) -> Asked:
    out = Transcript(request.prompt)
    return Asked(request, out, bench.start_generation(request, out), time.monotonic())


# -- while it runs -----------------------------------------------------------------------------------


def _live(asked: Asked, model: HookedDCFormer) -> None:
    """Drawn again every POLL_S until the job ends; then the whole page is."""
    if not asked.job.running:
        st.rerun()
    _numbers(asked, model)
    st.button(
        "Stop", icon=":material/stop:", on_click=asked.job.cancel, disabled=asked.job.cancelling, key="stop generation"
    )
    _text(asked.transcript)
    _token_heading(asked.transcript, model, len(asked.transcript.rows) - 1)
    map_viewer(
        token_view(asked.transcript, len(asked.transcript.rows) - 1, model.cfg), key="full token", height=TOKEN_MAP_PX
    )
    st.markdown("##### All new tokens")
    map_viewer(
        growth_view(asked.transcript, asked.request.max_new_tokens, model.cfg), key="full growth", height=GROWTH_PX
    )


def _numbers(asked: Asked, model: HookedDCFormer) -> None:
    out, cfg = asked.transcript, model.cfg
    places = st.columns(5)
    places[0].metric("new tokens", f"{len(out.tokens)} of {asked.request.max_new_tokens}")
    places[1].metric("prompt, tokens/s", _speed(out.prefill_speed), help="The prompt's tokens a second of model time.")
    places[2].metric("new, tokens/s", _speed(out.decode_speed), help="After the first, a second of model time.")
    places[3].metric("seconds", f"{asked.seconds:.1f}", help="Since the button was pressed, waiting included.")
    places[4].metric("waited, s", f"{out.waited_s:.1f}", help="For the turns of other sessions with this model.")
    backend = f"attention: {out.backends}" if out.backends else "not started yet"
    if asked.job.waiting:
        backend = "waiting for another generation to end"
    st.caption(
        plain(
            f"{dtype_name(cfg.dtype)} on {cfg.device} · {backend} · memory: "
            f"{memory_in_words(memory_in_use(str(cfg.device)))}"
        )
    )
    for message in fallback_messages():
        st.warning(plain(message), icon=":material/speed:")


def _speed(tokens_a_second: float | None) -> str:
    return "–" if tokens_a_second is None else f"{tokens_a_second:.1f}"


def _text(out: Transcript) -> None:
    with st.container(height=TEXT_PX, key="generated text"):
        st.code(out.prompt + out.new_text, language=None, wrap_lines=True)


def _token_heading(out: Transcript, model: HookedDCFormer, shown: int) -> None:
    st.markdown("##### How far mixing is from identity at one token")
    if not model.cfg.mixed_sites:
        st.info("This model mixes no heads: M is the identity at every token.")
    position = len(out.prompt_ids) + shown
    named = visible_token(_names(model, out)[shown]) if shown >= 0 else "none yet"
    st.code(f"new token {shown}, position {position}: {named}" if shown >= 0 else named, language=None)


def _names(model: HookedDCFormer, out: Transcript) -> list[str]:
    ids = [token.id for token in list(out.tokens)]
    return model.to_str_tokens(torch.tensor(ids)) if ids else []


# -- when it has ended -------------------------------------------------------------------------------


def _done(asked: Asked, model: HookedDCFormer, now: GenerationRequest) -> None:
    if asked.ended is None:
        asked.ended = time.monotonic()
    out = asked.transcript
    _outcome(asked)
    _numbers(asked, model)
    if asked.request != now:
        st.caption("The settings above have changed since this was generated.")
    if not out.tokens:
        st.info("No token was generated.")
        return
    shown = _shown(out, model, asked.request.max_new_tokens)
    _text(out)
    _strip(out, model, shown)
    _token_heading(out, model, shown)
    name = "generation"
    show_maps(token_view(out, shown, model.cfg), key="full token", name=f"{name}_token_{shown}", height=TOKEN_MAP_PX)
    st.markdown("##### All new tokens")
    st.caption("Root mean square over the heads of a layer. Click a column to look at that token.")
    view = growth_view(out, asked.request.max_new_tokens, model.cfg, _names(model, out), shown)
    show_maps(view, key="full growth", name=name, height=GROWTH_PX)
    with st.container(horizontal=True):
        st.download_button(
            "Download text", out.prompt + out.new_text, "generated.txt", "text/plain", icon=":material/download:",
            on_click="ignore", key="generated text file",
        )  # fmt: skip
        copy_as_python(generation_script(asked.request, len(out.tokens), shown))


def _outcome(asked: Asked) -> None:
    try:
        attempt(asked.job.value)
    except Cancelled:
        st.warning(f"Stopped after {len(asked.transcript.tokens)} tokens.", icon=":material/stop_circle:")


def _shown(out: Transcript, model: HookedDCFormer, room: int) -> int:
    """The token that is looked at: the one clicked, else the last that has a row."""
    clicked = read_event("full growth", (model.cfg.n_layers, room)).pick
    if clicked is not None and clicked[1] < len(out.tokens):
        st.session_state["full shown"] = clicked[1]
    shown = st.session_state["full shown"]
    last = max(0, len(out.rows) - 1)
    return last if shown is None or shown >= len(out.tokens) else int(shown)


def _strip(out: Transcript, model: HookedDCFormer, shown: int) -> None:
    st.caption("The new tokens, shaded by their distance from identity: click one to open the text so far in Explore.")
    token_strip(
        _names(model, out), shades(out), shown, shown, widget_key="new tokens",
        on_query=_ask_jump, on_key=_ask_jump,
    )  # fmt: skip


def _ask_jump(index: int) -> None:
    st.session_state["full jump"] = index


def _jump(bench: Workbench, asked: Asked | None) -> None:
    """Open Explore at a token that was clicked, in its most composed head."""
    index = st.session_state.pop("full jump", None)
    if index is None or asked is None:
        return
    name, out = asked.request.model, asked.transcript
    st.session_state["full shown"] = index
    place = attempt(lambda: place_of_token(bench.model(name), out, index))
    with st.spinner("Running the text so far ...", show_time=True):
        run = attempt(lambda: bench.capture(name, place.prompt))
    layer, head = most_composed(out, index) or (None, None)
    selection = attempt(lambda: views.chosen_selection(run, layer, head, place.query))
    state = st.session_state
    state.model, state.prompt, state.question = name, place.prompt, (name, place.prompt)
    state.window, state.selection = None, selection
    if not place.exact:
        state["explore note"] = "The tokenizer cuts this text otherwise than the model wrote it."
    st.switch_page("workbench/pages/explore.py")
