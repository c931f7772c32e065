"""Token sequences with a known property, for metrics that need one."""

from __future__ import annotations

import torch
from torch import Tensor

from model import Engine, HookedDCFormer


def repeated_random_tokens(
    model: HookedDCFormer | Engine, block: int, repeats: int = 2, seed: int = 0, batch: int = 1
) -> Tensor:
    """Ids of random blocks, each said several times in a row, [batch, pos].

    Within a block all tokens differ, so that each has one earlier occurrence in each earlier repeat. No special tokens;
    a BOS in front where the model expects one, which does not count as part of the block.

    Args:
        block: tokens in a block. repeats: how often it stands there, at least 2.
    Raises:
        ValueError: sizes that make no repeat, do not fit the context, or need more tokens than there are.
    Source: prefix matching on repeated random tokens, Olsson et al. 2022, arXiv 2209.11895.
    """
    cfg, tokenizer = model.cfg, model.model.tokenizer if isinstance(model, Engine) else model.tokenizer
    if block < 1 or repeats < 2 or batch < 1:
        raise ValueError(f"block={block}, repeats={repeats}, batch={batch}: at least 1, 2 and 1 are needed.")
    start = [tokenizer.bos_token_id] if tokenizer is not None and cfg.default_prepend_bos else []
    if len(start) + block * repeats > cfg.n_ctx:
        raise ValueError(
            f"{repeats} repeats of {block} tokens are {len(start) + block * repeats} tokens, the model's context has "
            f"{cfg.n_ctx}. Choose a shorter block or fewer repeats."
        )
    ordinary = _ordinary_tokens(cfg.d_vocab, tokenizer)
    if block > len(ordinary):
        raise ValueError(f"A block of {block} different tokens was asked for, the vocabulary has {len(ordinary)}.")
    generator = torch.Generator().manual_seed(seed)
    rows = [ordinary[torch.randperm(len(ordinary), generator=generator)[:block]].repeat(repeats) for _ in range(batch)]
    return torch.stack([torch.cat([torch.tensor(start, dtype=torch.long), row]) for row in rows])


def _ordinary_tokens(d_vocab: int, tokenizer: object) -> Tensor:
    """Ids that stand for text; without a tokenizer, all."""
    if tokenizer is None:
        return torch.arange(d_vocab)
    special = set(tokenizer.all_special_ids)  # type: ignore[attr-defined]
    known = min(d_vocab, len(tokenizer))  # type: ignore[arg-type]
    return torch.tensor([token for token in range(known) if token not in special])
