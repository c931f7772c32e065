"""Sampling continuations with cached keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from model.key_cache import KeyCache, caches_for

if TYPE_CHECKING:
    from model.transformer import HookedDCFormer

Step = Callable[[Tensor, Tensor | None, list[KeyCache]], Tensor]
"""(new tokens [batch, pos], mask over all so far or None, caches) -> logits of the last position, [batch, d_vocab]."""


class Sampler:
    """Chooses next tokens from logits [batch, d_vocab].

    Args:
        temperature: 0 takes the most likely token; otherwise logits are divided by it.
        top_k: keep the k most likely tokens. top_p: keep the fewest that hold this probability.
        seed: of the random draws; None draws differently each time.
    """

    def __init__(self, temperature: float, top_k: int | None, top_p: float | None, seed: int | None, device: str):
        if temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or positive, got {temperature}.")
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}.")
        if top_p is not None and not 0 < top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {top_p}.")
        if temperature == 0 and (top_k is not None or top_p is not None):
            raise ValueError("temperature=0 is greedy and contradicts top_k / top_p. Set a temperature, or drop them.")
        self.greedy = temperature == 0
        self.warpers = LogitsProcessorList()
        if not self.greedy:
            self.warpers.append(TemperatureLogitsWarper(float(temperature)))
        if top_k is not None:
            self.warpers.append(TopKLogitsWarper(top_k))
        if top_p is not None:
            self.warpers.append(TopPLogitsWarper(top_p))
        self.generator = torch.Generator(device=device)
        self.generator.seed() if seed is None else self.generator.manual_seed(seed)

    def __call__(self, logits_BV: Tensor) -> Tensor:
        """Next token ids, [batch]."""
        if self.greedy:
            return logits_BV.argmax(-1)
        probabilities = self.warpers(None, logits_BV.float()).softmax(-1)  # type: ignore[arg-type]
        return torch.multinomial(probabilities, 1, generator=self.generator)[:, 0]


class StopTexts:
    """Tells when a sequence's new text holds one of some texts, and cuts it there."""

    def __init__(self, model: HookedDCFormer, stop: str | Sequence[str]):
        self.model = model
        self.texts = [stop] if isinstance(stop, str) else list(stop)
        if "" in self.texts:
            raise ValueError("An empty stop text was given: it would end every sequence at once. Leave it out.")
        self.new_ids: list[list[int]] = []

    def __call__(self, next_token_B: Tensor) -> Tensor:
        """Add one token to each sequence; bool [batch], True where a stop text is now there."""
        self.new_ids = self.new_ids or [[] for _ in next_token_B]
        found = []
        for ids, token in zip(self.new_ids, next_token_B.tolist(), strict=True):
            ids.append(token)
            text = str(self.model.to_string(ids))
            found.append(any(stop in text for stop in self.texts))
        return torch.tensor(found, device=next_token_B.device)

    def cut(self, text: str) -> str:
        return text[: min((at for stop in self.texts if (at := text.find(stop)) >= 0), default=len(text))]


def generate(
    model: HookedDCFormer,
    input: str | Sequence[str] | Tensor,
    max_new_tokens: int = 32,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_at_eos: bool = True,
    stop: str | Sequence[str] = (),
    prepend_bos: bool | None = None,
    attention_mask: Tensor | None = None,
    step: Step | None = None,
) -> Any:
    """Continue prompts, greedily by default; hooks on the model act on every step.

    Args:
        input: text, texts, or ids [batch, pos]. The same kind comes back, prompt included.
        max_new_tokens: how many tokens to add; fewer if every sequence ends first.
        temperature, top_k, top_p, seed: see Sampler.
        stop_at_eos: stop at cfg.eos_token_id, where the config names one; a batch runs until its last
            sequence ends, the others being filled up (cut off again in text).
        stop: texts at which a sequence ends; in text they are left out of what is returned. They need a tokenizer.
        step: what runs the model; Engine passes its own.
    Raises:
        ValueError: the prompt and max_new_tokens do not fit the context, before the first step.
    """
    tokens, mask = model.to_tokens_and_mask(input, prepend_bos, attention_mask)
    sampler, stops = Sampler(temperature, top_k, top_p, seed, str(tokens.device)), StopTexts(model, stop)
    steps = continuation(model, tokens, mask, max_new_tokens, sampler, stops, stop_at_eos, step)
    new_BT = torch.stack(list(steps), dim=1)
    if isinstance(input, Tensor):
        whole = torch.cat([tokens, new_BT], dim=1)
        return whole[0] if input.ndim == 1 else whole
    texts = []
    for row, new in enumerate(new_BT):
        prompt = tokens[row] if mask is None else tokens[row][mask[row]]
        texts.append(_finished_text(model, prompt.tolist(), new.tolist(), stops, stop_at_eos))
    return texts[0] if isinstance(input, str) else texts


def stream(model: HookedDCFormer, input: str, max_new_tokens: int = 32, **options: Any) -> Iterator[str]:
    """Yield the new text of one prompt piece by piece; a piece is held back while it is half a character.

    Arguments as for generate; a stop text is not held back, its first tokens are yielded as they come.
    """
    for token in stream_tokens(model, input, max_new_tokens, **options):
        if token.text:
            yield token.text


@dataclass(frozen=True)
class NewToken:
    """A token that was drawn. text: what it adds to the text; "" while a character is not complete."""

    id: int
    text: str


def stream_tokens(
    model: HookedDCFormer, input: str, max_new_tokens: int = 32, *, step: Step | None = None, stop_at_eos: bool = True,
    stop: str | Sequence[str] = (), prepend_bos: bool | None = None, **sampling: Any,
) -> Iterator[NewToken]:  # fmt: skip
    """Yield every new token of one prompt as it is drawn, an end token left out; arguments as for generate."""
    tokens, mask = model.to_tokens_and_mask(input, prepend_bos)
    options = {"temperature": 0.0, "top_k": None, "top_p": None, "seed": None} | sampling
    sampler = Sampler(device=str(tokens.device), **options)
    # from the prompt on: what a token adds to a text may depend on what stands before it
    decoder = DecodeStream(ids=tokens[0].tolist(), skip_special_tokens=False)
    backend = model.tokenizer.backend_tokenizer
    stops = StopTexts(model, stop)
    for next_token in continuation(model, tokens, mask, max_new_tokens, sampler, stops, stop_at_eos, step):
        token = int(next_token)
        if stop_at_eos and token == model.cfg.eos_token_id:
            return
        yield NewToken(token, decoder.step(backend, token) or "")


@torch.no_grad()
def continuation(
    model: HookedDCFormer, tokens: Tensor, mask: Tensor | None, max_new_tokens: int,
    sampler: Sampler, stops: StopTexts, stop_at_eos: bool, step: Step | None = None,
) -> Iterator[Tensor]:  # fmt: skip
    """Yield the next token of each sequence, [batch], one step at a time."""
    check_room(model, tokens, mask, max_new_tokens)
    run: Step = step or (lambda new, mask, caches: model(new, attention_mask=mask, caches=caches)[:, -1])
    eos = model.cfg.eos_token_id if stop_at_eos else None
    caches = caches_for(model.cfg.keys_visible, tokens.shape[1] + max_new_tokens)
    ended = torch.zeros(tokens.shape[0], dtype=torch.bool, device=tokens.device)
    new = tokens
    for _ in range(max_new_tokens):
        next_token = sampler(run(new, mask, caches))
        if eos is not None:
            next_token = next_token.masked_fill(ended, eos)
            ended |= next_token == eos
        if stops.texts:
            ended |= stops(next_token)
        yield next_token
        if ended.all():
            return
        new = next_token[:, None]
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)


def check_room(model: HookedDCFormer, tokens: Tensor, mask: Tensor | None, max_new_tokens: int) -> None:
    """Refuse, before the first step, what the context cannot hold."""
    model.check_tokens(tokens, mask)
    length = tokens.shape[1]
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
    if length + max_new_tokens > model.cfg.n_ctx:
        raise ValueError(
            f"A prompt of {length} tokens leaves no room for {max_new_tokens} more in a context of {model.cfg.n_ctx}. "
            f"Shorten the prompt or ask for at most {max(0, model.cfg.n_ctx - length)} tokens."
        )


def _finished_text(
    model: HookedDCFormer, prompt: list[int], new: list[int], stops: StopTexts, stop_at_eos: bool
) -> str:
    """Prompt and new text, the latter cut at its end token and at the first stop text."""
    eos = model.cfg.eos_token_id
    if stop_at_eos and eos is not None and eos in new:
        new = new[: new.index(eos)]
    whole = str(model.to_string(prompt + new))
    if not stops.texts:
        return whole
    # the prompt may hold a stop text: only what is new is searched
    before = len(str(model.to_string(prompt)))
    return whole[:before] + stops.cut(whole[before:])
