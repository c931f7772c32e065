"""Generation as it happens: text, speeds, the composition of each new token; then the tokens as a way to Explore."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import streamlit as st
import torch

from model import HookedDCFormer
from model.backends.fallbacks import fallback_messages
from model.config import dtype_name
from workbench import views
from workbench.export import capture_npz
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
from workbench.pages.explore_link import open_in_explore
from workbench.pages.shared import attempt
from workbench.pages.tables import plain
from workbench.scripts import generation_script
from workbench.session import Workbench
from workbench.viewer.component import read_event
from workbench.viewer.token_strip import token_strip
from workbench.viewer.view import visible_token

POLL_S = 0.4
LONGEST = 100_000
TEXT_PX = 170
STRIP_PX = 160
TOKEN_MAP_PX = 260
GROWTH_PX = 150


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
    with st.container(horizontal=True):
        start = st.button("Generate", type="primary", icon=":material/play_arrow:", disabled=busy, key="generate")
        stop = asked.job.cancel if asked is not None else None
        st.button("Stop", icon=":material/stop:", on_click=stop, disabled=not busy, key="stop generation")
    if start:
        st.session_state["full shown"] = None
        st.session_state.generation = _start(bench, request)
        st.rerun()  # so that the buttons are drawn as what they can do now
    if asked is None:
        st.info("Generated text appears here token by token, with the mixing of heads at each.")
        return
    model = attempt(lambda: bench.model(name))
    if busy:
        st.fragment(_live, run_every=POLL_S)(asked, model)
    else:
        _ended(bench, asked, model, request)


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


def _live(asked: Asked, model: HookedDCFormer) -> None:
    """Drawn again every POLL_S until the job ends, or a token is clicked; then the whole page is."""
    if not asked.job.running or "full jump" in st.session_state:
        st.rerun()
    _show(asked, model, "waiting for another generation to end" if asked.job.waiting else "running")


def _ended(bench: Workbench, asked: Asked, model: HookedDCFormer, now: GenerationRequest) -> None:
    asked.ended = asked.ended or time.monotonic()
    try:
        attempt(asked.job.value)
        state = "ended"
    except Cancelled:
        state = f"stopped after {len(asked.transcript.tokens)} tokens"
    if asked.request != now:
        state += ", with other settings than those above"
    shown = _show(asked, model, state)
    if asked.transcript.tokens:
        _files(bench, asked, shown)


# -- what has come of it, while it runs and afterwards -------------------------------------------------


def _show(asked: Asked, model: HookedDCFormer, state: str) -> int:
    """Numbers, text, tokens and maps; the number of the token that is looked at, -1 where there is none."""
    out, room = asked.transcript.so_far(), min(asked.request.max_new_tokens, model.cfg.n_ctx)
    shown = _shown(out, model, room)
    names = _names(model, out)
    _numbers(asked, out, model, state)
    with st.container(height=TEXT_PX, border=False, key="generated text", autoscroll=True):
        st.code(out.prompt + out.new_text, language=None, wrap_lines=True)
    st.caption("New tokens, shaded by their distance from identity: click one to open the text so far in Explore.")
    with st.container(height=STRIP_PX, border=False, key="generated tokens"):
        token_strip(
            names, shades(out), shown, shown, widget_key="new tokens", on_query=_ask_jump,
            on_key=_ask_jump,
        )  # fmt: skip
    _heading(out, names, shown)
    show_maps(token_view(out, shown, model.cfg), key="full token map", name="generated_token", height=TOKEN_MAP_PX)
    st.markdown("##### All new tokens: root mean square over the heads of a layer")
    view = growth_view(out, room, model.cfg, names, shown)
    show_maps(view, key="full growth", name="generated_tokens", height=GROWTH_PX)
    return shown


def _numbers(asked: Asked, out: Transcript, model: HookedDCFormer, state: str) -> None:
    cfg = model.cfg
    places = st.columns(5)
    places[0].metric("new tokens", f"{len(out.tokens)} of {asked.request.max_new_tokens}")
    places[1].metric("prompt, tokens/s", _speed(out.prefill_speed), help="The prompt's tokens a second of model time.")
    places[2].metric("new, tokens/s", _speed(out.decode_speed), help="After the first, a second of model time.")
    places[3].metric("seconds", f"{asked.seconds:.1f}", help="Since the button was pressed, waiting included.")
    places[4].metric("waited, s", f"{out.waited_s:.1f}", help="For the turns of other sessions with this model.")
    told = [
        state, f"{dtype_name(cfg.dtype)} on {cfg.device}", f"attention: {out.backends}" if out.backends else "",
        f"memory: {memory_in_words(memory_in_use(str(cfg.device)))}",
    ]  # fmt: skip
    st.caption(plain(" · ".join(filter(None, told))))
    for message in fallback_messages():
        st.warning(plain(message), icon=":material/speed:")


def _speed(tokens_a_second: float | None) -> str:
    return "–" if tokens_a_second is None else f"{tokens_a_second:.1f}"


def _shown(out: Transcript, model: HookedDCFormer, room: int) -> int:
    """The token that is looked at: the one clicked, else the last that has a row, else -1."""
    clicked = read_event("full growth", (model.cfg.n_layers, room)).pick
    if clicked is not None and clicked[1] < len(out.tokens):
        st.session_state["full shown"] = clicked[1]
    shown = st.session_state["full shown"]
    return len(out.rows) - 1 if shown is None or shown >= len(out.tokens) else int(shown)


def _names(model: HookedDCFormer, out: Transcript) -> list[str]:
    ids = [token.id for token in out.tokens]
    return model.to_str_tokens(torch.tensor(ids)) if ids else []


def _heading(out: Transcript, names: list[str], shown: int) -> None:
    st.markdown("##### How far mixing is from identity at one token")
    st.caption("Click a column of the lower maps for another token. 0: the head keeps its own map; see Explore.")
    told = "none yet"
    if shown >= 0:
        told = f"new token {shown}, position {len(out.prompt_ids) + shown}: {visible_token(names[shown])}"
    st.code(told, language=None)


# -- files and other pages -----------------------------------------------------------------------------


def _files(bench: Workbench, asked: Asked, shown: int) -> None:
    out, name = asked.transcript, asked.request.model
    ids = (*out.prompt_ids, *(token.id for token in out.tokens))

    def capture_file() -> bytes:
        return capture_npz(bench.capture_of_ids(name, ids), name, out.prompt + out.new_text)

    with st.container(horizontal=True):
        _download("Text", out.prompt + out.new_text, "generated.txt", "text/plain")
        _download("Capture (NPZ)", capture_file, "generated.npz", "application/octet-stream")
        copy_as_python(generation_script(asked.request, len(out.tokens), max(0, shown)))


def _download(label: str, data: Any, file: str, mime: str) -> None:
    st.download_button(label, data, file, mime, icon=":material/download:", on_click="ignore", key=f"get {file}")


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
    if not place.exact:
        st.toast(
            "The tokenizer cuts this text otherwise than the model wrote it: Explore shows its last token, whose "
            "numbers differ from those here.", duration="long",
        )  # fmt: skip
    open_in_explore(name, place.prompt, selection)
