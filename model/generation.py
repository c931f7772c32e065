"""Sampling continuations with cached keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from model.key_cache import caches_for

if TYPE_CHECKING:
    from model.transformer import HookedDCFormer


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
    prepend_bos: bool | None = None,
    attention_mask: Tensor | None = None,
) -> Any:
    """Continue prompts, greedily by default; hooks on the model act on every step.

    Args:
        input: text, texts, or ids [batch, pos]. The same kind comes back, prompt included.
        max_new_tokens: how many tokens to add; fewer if every sequence reaches the end token first.
        temperature, top_k, top_p, seed: see Sampler.
        stop_at_eos: stop at cfg.eos_token_id, where the config names one; a batch runs until its last
            sequence ends, the others being filled up with that token (cut off again in text).
    Raises:
        ValueError: the prompt and max_new_tokens do not fit the context, before the first step.
    """
    tokens, mask = model.to_tokens_and_mask(input, prepend_bos, attention_mask)
    new = list(continuation(model, tokens, mask, max_new_tokens,
                            Sampler(temperature, top_k, top_p, seed, str(tokens.device)), stop_at_eos))  # fmt: skip
    whole = torch.cat([tokens, *(step[:, None] for step in new)], dim=1)
    if isinstance(input, Tensor):
        return whole[0] if input.ndim == 1 else whole
    texts = [_text(model, row, None if mask is None else mask[i], tokens.shape[1]) for i, row in enumerate(whole)]
    return texts[0] if isinstance(input, str) else texts


@torch.no_grad()
def continuation(
    model: HookedDCFormer, tokens: Tensor, mask: Tensor | None, max_new_tokens: int, sampler: Sampler, stop_at_eos: bool
) -> Iterator[Tensor]:
    """Yield the next token of each sequence, [batch], one step at a time."""
    model.check_tokens(tokens, mask)
    length = tokens.shape[1]
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {max_new_tokens}.")
    if length + max_new_tokens > model.cfg.n_ctx:
        raise ValueError(
            f"A prompt of {length} tokens leaves no room for {max_new_tokens} more in a context of {model.cfg.n_ctx}. "
            f"Shorten the prompt or ask for at most {max(0, model.cfg.n_ctx - length)} tokens."
        )
    eos = model.cfg.eos_token_id if stop_at_eos else None
    caches = caches_for(model.cfg.keys_visible, length + max_new_tokens)
    ended = torch.zeros(tokens.shape[0], dtype=torch.bool, device=tokens.device)
    step = tokens
    for _ in range(max_new_tokens):
        next_token = sampler(model(step, attention_mask=mask, caches=caches)[:, -1])
        if eos is not None:
            next_token = next_token.masked_fill(ended, eos)
            ended |= next_token == eos
        yield next_token
        if ended.all():
            return
        step = next_token[:, None]
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)


def _text(model: HookedDCFormer, row: Tensor, prompt_mask: Tensor | None, prompt_length: int) -> str:
    """One sequence as text, without its padding and without what fills it up after its end token."""
    start = 0 if prompt_mask is None else int((~prompt_mask).sum())
    ids, eos = row.tolist(), model.cfg.eos_token_id
    end = len(ids)
    if eos is not None and eos in ids[prompt_length:]:
        end = prompt_length + ids[prompt_length:].index(eos)
    return str(model.to_string(ids[start:end]))
