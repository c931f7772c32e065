"""Generation that is watched: tokens as they are drawn, the composition of each, speeds, and a stop at any token.

The engine runs on the model once more (shared weights, taps of its own) with its own key cache, and takes the model's
turn for one step at a time: captures of other sessions come in between, and nobody's answer can be another's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from model import Engine, HookedDCFormer
from model.backends import automatic_backend
from model.config import SITES
from model.generation import NewToken, stream_tokens
from model.key_cache import KeyCache
from model.memory import in_words
from probes.decoding import DecodingDistances
from workbench.jobs import Watch
from workbench.turns import telling

Turns = Callable[[], AbstractContextManager[Any]]
"""Gives the context in which one step may run."""


@dataclass(frozen=True)
class GenerationRequest:
    """What to generate. temperature, top_k, top_p, seed: as for model.generate; model: a name of the workbench.

    composition: measure how far M is from identity at each new token.
    """

    model: str
    prompt: str
    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = 0
    composition: bool = True

    def sampling(self) -> dict[str, Any]:
        """The arguments of model.generate beside the prompt and max_new_tokens that are not at their default."""
        given = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        drawn = {name: value for name, value in given.items() if value}
        return drawn | ({"seed": self.seed} if drawn and self.seed is not None else {})


@dataclass
class Transcript:
    """What has come of a generation so far; one thread adds to it, others read what so_far() gives them.

    Attributes:
        prompt_ids: token ids of the prompt. tokens: the new ones.
        rows: of each new token on which the model has run, by site [layer, head]: see probes.decoding. The last token
            of a generation that was stopped has none.
        prefill_s, decode_s: seconds of the model's own time for the prompt, and for all steps after it.
        decode_steps: how many those were. waited_s: seconds spent waiting for the model's turn.
    """

    prompt: str
    prompt_ids: list[int] = field(default_factory=list)
    tokens: list[NewToken] = field(default_factory=list)
    rows: list[dict[str, np.ndarray]] = field(default_factory=list)
    prefill_s: float = 0.0
    decode_s: float = 0.0
    decode_steps: int = 0
    waited_s: float = 0.0
    backends: str = ""

    def so_far(self) -> Transcript:
        """As it is now: a copy that does not grow. Every row has its token."""
        rows = list(self.rows)  # first: a token comes before its row
        return replace(self, rows=rows, tokens=list(self.tokens))

    @property
    def new_text(self) -> str:
        return "".join(token.text for token in self.tokens)

    @property
    def prefill_speed(self) -> float | None:
        """Prompt tokens a second, or None before the prompt is run."""
        return len(self.prompt_ids) / self.prefill_s if self.prefill_s else None

    @property
    def decode_speed(self) -> float | None:
        """New tokens a second after the first, or None before there are any."""
        return self.decode_steps / self.decode_s if self.decode_s else None

    def distances(self, site: str) -> np.ndarray:
        """[new token, layer, head] of the tokens that have a row."""
        return np.stack([row[site] for row in self.rows])


def generate_watched(
    model: HookedDCFormer, request: GenerationRequest, out: Transcript, watch: Watch, turns: Turns
) -> Transcript:
    """Generate into a transcript.

    Args:
        model: nobody else's: its taps are used.
        watch: told of (new tokens, most there will be); what it raises ends the generation, at the latest one token
            later, while a prompt is run one layer later.
        turns: see Turns.
    Raises:
        ValueError: a prompt or settings that the model cannot have. WillNotFit: too little memory.
    """
    run = _Run(model, request, out, watch, turns)
    taps = (lambda at: run.check(), run.distances) if run.distances is not None else (lambda at: run.check(),)
    with run.engine.tapped(*taps):
        for token in stream_tokens(
            model, request.prompt, request.max_new_tokens, step=run.step, **request.sampling()
        ):  # fmt: skip
            out.tokens.append(token)
            run.check()
        run.finish()
    return out


class _Run:
    """The steps of one generation."""

    def __init__(
        self, model: HookedDCFormer, request: GenerationRequest, out: Transcript, watch: Watch, turns: Turns
    ) -> None:
        self.engine, self.request, self.out, self.turns = Engine(model), request, out, turns
        self.distances = DecodingDistances(model.cfg) if request.composition else None
        self._watch = watch
        self._caches: list[KeyCache] = []

    def check(self, *_: object) -> None:
        """Report, and end here if nobody wants the rest."""
        self._watch(len(self.out.tokens), self.request.max_new_tokens)

    def step(self, new: Tensor, mask: Tensor | None, caches: list[KeyCache]) -> Tensor:
        """One step of the engine within a turn of the model."""
        first, self._caches = not caches[0].length, caches
        if first:
            self.out.prompt_ids = new[0].tolist()
            self.out.backends = backends_in_use(self.engine.model, new.shape[1])
        asked = time.perf_counter()
        with telling(self.check), self.turns():
            began = time.perf_counter()
            logits = self.engine(new, last=True, attention_mask=mask, caches=caches)
            synchronise(logits.device)
            ended = time.perf_counter()
        self.out.waited_s += began - asked
        if first:
            self.out.prefill_s = ended - began
        else:
            self.out.decode_steps += 1
            self.out.decode_s += ended - began
        self._keep_row(first)
        return logits

    def finish(self) -> None:
        """Run the last token too, so that it has its composition: nobody asks for what comes after it."""
        tokens = self.out.tokens
        if self.distances is not None and len(self.out.rows) < len(tokens):
            self.step(torch.tensor([[tokens[-1].id]], device=str(self.engine.cfg.device)), None, self._caches)

    def _keep_row(self, of_prompt: bool) -> None:
        if self.distances is not None:
            row = {site: values.numpy() for site, values in self.distances.last_row().items()}
            if not of_prompt:
                self.out.rows.append(row)


def synchronise(device: torch.device) -> None:
    """Wait for what was started on a GPU, so that a clock read next is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def backends_in_use(model: HookedDCFormer, prompt_tokens: int) -> str:
    """How composed attention is computed for such a prompt and for single tokens after it, in words."""
    cfg = model.cfg
    if not cfg.mixed_sites:
        return "PyTorch's fused attention (no heads are mixed)"
    device = torch.device(str(cfg.device)).type

    def chosen(tokens: int, window: int | None) -> str:
        name = automatic_backend((1, tokens, cfg.n_heads, cfg.d_head), device, window)
        return "eager" if name == "triton" and cfg.dtype == torch.float64 else name

    prompt = sorted({chosen(prompt_tokens, window) for window in cfg.keys_visible})
    single = "triton" if chosen(1, None) == "triton" else "eager, single query"
    return f"{' and '.join(prompt)} for the prompt, {single} for each token"


def memory_in_use(device: str) -> dict[str, int]:
    """Bytes by what holds them: the process in main memory, and on a GPU what PyTorch has allocated there."""
    held = {"process": psutil.Process().memory_info().rss}
    if device.startswith("cuda"):
        held[f"allocated on {device}"] = torch.cuda.memory_allocated(device)
    return held


def memory_in_words(held: Mapping[str, int]) -> str:
    return " · ".join(f"{name} {in_words(size)}" for name, size in held.items())


# -- from a token to Explore -------------------------------------------------------------------------


@dataclass(frozen=True)
class TextPlace:
    """A text and the position of its token to look at. exact: its tokens are the very ones that were generated."""

    prompt: str
    query: int
    exact: bool


def place_of_token(model: HookedDCFormer, transcript: Transcript, index: int) -> TextPlace:
    """The text so far at a new token, and that token's position in it.

    A text that ends within a character goes on to that character's end. A tokenizer may cut a text otherwise than the
    model wrote it: the last token is then looked at, and exact is False.
    """
    tokens = transcript.tokens
    last = next((at for at in range(index, len(tokens)) if _complete(tokens, at)), len(tokens) - 1)
    prompt = transcript.prompt + "".join(token.text for token in tokens[: last + 1])
    ids = [*transcript.prompt_ids, *(token.id for token in tokens[: last + 1])]
    again = model.to_tokens(prompt)[0].tolist()
    exact = again == ids
    return TextPlace(prompt, len(transcript.prompt_ids) + index if exact else len(again) - 1, exact)


def _complete(tokens: list[NewToken], at: int) -> bool:
    """Does the text after this token end with a whole character? A piece that was held back came with the next."""
    return bool(tokens[at].text)


def mean_over_heads(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By site, [layer]: root mean square over heads of a token's distances, whose unit it keeps."""
    return {site: np.sqrt(np.square(rows[site]).mean(-1)) for site in SITES}
