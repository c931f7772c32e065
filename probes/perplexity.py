"""How well a model predicts a text, with a context that slides over it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from model import Engine


@dataclass(frozen=True)
class Perplexity:
    """The loss of one or several texts.

    tokens: how many were predicted (all but each text's first). bytes: of their UTF-8 text.
    nats: sum of their losses. Sums add up over texts.
    """

    tokens: int
    bytes: int
    nats: float

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(nats per token): comparable only between models with the same tokenizer."""
        return math.exp(self.nats_per_token)

    @property
    def bits_per_byte(self) -> float:
        """Comparable between any two models."""
        return self.nats / math.log(2) / self.bytes

    def __add__(self, other: Perplexity) -> Perplexity:
        return Perplexity(self.tokens + other.tokens, self.bytes + other.bytes, self.nats + other.nats)


def perplexity(
    engine: Engine, text: str, *, context: int | None = None, stride: int | None = None, progress: bool = False
) -> Perplexity:
    """Loss of a text of any length; every token but the first is predicted once.

    Args:
        context: tokens the model sees at a time; None = its whole context.
        stride: how far the window moves; tokens after the first window are predicted with at least
            context - stride tokens before them. None = half the context. Smaller is slower and kinder.
        progress: show a bar with tokens/s.
    Raises:
        ValueError: a text of fewer than 2 tokens, a context the model does not have, a stride out of range.
    """
    context = engine.cfg.n_ctx if context is None else context
    stride = max(1, context // 2) if stride is None else stride
    if not 2 <= context <= engine.cfg.n_ctx:
        raise ValueError(f"context must be 2 to {engine.cfg.n_ctx} tokens for this model, got {context}.")
    if not 1 <= stride < context:
        raise ValueError(f"stride must be 1 to {context - 1} for a context of {context} tokens, got {stride}.")
    tokens = engine.model.to_tokens_and_mask(text)[0][0]
    if len(tokens) < 2:
        raise ValueError(f"The text has {len(tokens)} token; at least 2 are needed to predict one. Give a longer text.")
    nats = 0.0
    with tqdm(total=len(tokens) - 1, unit="token", disable=not progress) as bar:
        for start, first_scored, end in windows(len(tokens), context, stride):
            nats += float(_losses(engine, tokens[start:end])[first_scored - start - 1 :].sum())
            bar.update(end - first_scored)
    first = engine.model.to_string(tokens[:1])
    return Perplexity(len(tokens) - 1, max(1, len(text.encode()) - len(str(first).encode())), nats)


def windows(length: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(start, first token to score, end) of each window; scored tokens tile 1 .. length - 1."""
    scored = 1
    start = 0
    while scored < length:
        end = min(start + context, length)
        yield start, scored, end
        scored, start = end, start + stride


def _losses(engine: Engine, tokens_T: Tensor) -> Tensor:
    """Loss of each token after the first, in nats, float64."""
    logits = engine(tokens_T[None])[0, :-1]
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide, tokens_T[1:], reduction="none").double()
