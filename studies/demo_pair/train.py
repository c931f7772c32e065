"""Train one of the demo pair on one CPU thread: python -m studies.demo_pair.train dcformer --work DIR.

Stopped at any time, the same command goes on from the last checkpoint as if it had never stopped: a step's data
depends on the seed and the step alone.
studies.demo_pair.export puts the last checkpoints into model/zoo.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import DCFormerConfig, HookedDCFormer
from studies.demo_pair.data import repeat_rows, training_rows
from studies.demo_pair.tokenizer import train_tokenizer

SEED = 0
STEPS = 3000
LEARNING_RATE = 3e-3
TOKENS_PER_STEP = 1280
EARLY_LENGTHS = (64, 64, 64, 128)
"""Row lengths of successive steps, in tokens: short rows first, in which what must be found is never far."""
LATE_LENGTHS, LATE_FROM = (96, 192), 0.6
"""After this share of the steps rows are longer, so that more of it lies beyond the local layers' window."""
LONG_FROM, LONG_EVERY = 0.9, 5
"""After this share of the steps, every so many of them is one row as long as the context."""

SECOND_STEPS, SECOND_RATE, SECOND_WARM_UP = 1500, 3e-3, 50
"""Steps after the first STEPS, on short repeats (and every fifth on what came before): induction forms here."""
SHARPEN = 1.5
"""Factor on every query and key norm before the second stage: heads of 16 dimensions start out too blunt."""


def demo_config(compose: bool, d_vocab: int) -> DCFormerConfig:
    """The size of the pair; the two differ in composition alone."""
    return DCFormerConfig.from_architecture(
        "llama", n_layers=4, d_model=128, n_heads=8, d_head=16, d_mlp=320, n_ctx=1024, d_vocab=d_vocab,
        visible_keys=(16, None, 16, None), tie_embeddings=True, compose=compose,
        model_name="dcformer" if compose else "transformer",
    )  # fmt: skip


@torch.no_grad()
def start_from_copying(model: HookedDCFormer, seed: int) -> None:
    """Change the random weights so that heads attend to equal tokens and pass on what they attend to.

    With 4 million tokens of training, chance weights leave the plateau before induction too late. So every
    embedding gets a common part (a position-only head has something to read), W_K starts equal to W_Q after
    layer 0, with sharper scores, and the heads of a layer start as W_V W_O = a projection on orthogonal
    subspaces. Trockman & Kolter 2023 (arXiv 2305.09828) call such a start mimetic. All of it is then trained.
    """
    generator = torch.Generator().manual_seed(seed)
    width = model.cfg.d_model
    model.embed.W_E.add_(torch.randn(width, generator=generator) * width**-0.5)
    for layer, block in enumerate(model.blocks):
        query, key, value = block.attn.wqkv.weight.chunk(3)
        subspaces, _ = torch.linalg.qr(torch.randn(width, value.shape[0], generator=generator))
        value.copy_(0.7 * subspaces.T)
        block.attn.wo.weight.copy_(0.7 * subspaces)
        if layer > 0:
            key.copy_(query)
            block.attn.q_norm.fill_(1.5)
            block.attn.k_norm.fill_(1.5)


def row_length(step: int, n_ctx: int) -> int:
    """Tokens in each row of one step."""
    if step >= STEPS:
        return n_ctx if step % 50 == 0 else 96 if step % 5 == 0 else 32
    if step >= LONG_FROM * STEPS and step % LONG_EVERY == 0:
        return n_ctx
    lengths = EARLY_LENGTHS if step < LATE_FROM * STEPS else LATE_LENGTHS
    return lengths[step % len(lengths)]


def batch(step: int, tokenizer: Any, n_ctx: int) -> tuple[Tensor, Tensor]:
    """Token ids and loss weights [row, pos] of one step; about TOKENS_PER_STEP of them, whatever the rows' length."""
    length = row_length(step, n_ctx)
    make = repeat_rows if step >= STEPS and step % 5 else training_rows
    rows = make(SEED, step, tokenizer, TOKENS_PER_STEP // length, length)
    return torch.tensor([row.tokens for row in rows]), torch.tensor([row.weights for row in rows])


def learning_rate(step: int) -> float:
    """In each of the two stages a linear warm-up, then a cosine down to 10% of the peak."""
    peak, warm_up, steps = LEARNING_RATE, STEPS // 100, STEPS
    if step >= STEPS:
        step, peak, warm_up, steps = step - STEPS, SECOND_RATE, SECOND_WARM_UP, SECOND_STEPS
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = (step - warm_up) / (steps - warm_up)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def sharpen(model: HookedDCFormer) -> None:
    """Let heads attend more sharply than their query and key norms allow so far."""
    for block in model.blocks:
        block.attn.q_norm.mul_(SHARPEN)
        block.attn.k_norm.mul_(SHARPEN)


def make_optimizer(model: HookedDCFormer) -> torch.optim.AdamW:
    """AdamW; norms are not decayed."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.95))


def train_step(model: HookedDCFormer, optimizer: torch.optim.Optimizer, step: int) -> float:
    """One update; the weighted loss before it, in nats per token."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step)
    tokens, weights = batch(step, model.tokenizer, model.cfg.n_ctx)
    loss_per_token = model(tokens, return_type="loss", loss_per_token=True)
    loss = (loss_per_token * weights[:, 1:]).sum() / weights[:, 1:].sum()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def save_checkpoint(
    path: Path, model: HookedDCFormer, optimizer: torch.optim.Optimizer, step: int, spent: float
) -> None:
    """Written aside and renamed, so that a checkpoint is whole or absent."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": spent}
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def resume(path: Path, model: HookedDCFormer, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    """Fill both from a checkpoint; the steps done and the seconds they took."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


def train(name: str, work: Path, checkpoint_every: int, last: int = STEPS + SECOND_STEPS) -> HookedDCFormer:
    """Train `name` up to step `last`, from its checkpoint in `work` if there is one."""
    tokenizer = train_tokenizer(SEED)
    model = HookedDCFormer(demo_config(name == "dcformer", len(tokenizer)), tokenizer=tokenizer, seed=SEED).train()
    start_from_copying(model, SEED)
    optimizer, path = make_optimizer(model), work / f"{name}.pt"
    first, spent = resume(path, model, optimizer)
    began, losses = time.perf_counter() - spent, []
    for done in range(first + 1, last + 1):
        if done == STEPS + 1:
            sharpen(model)
        losses.append(train_step(model, optimizer, done - 1))
        if done % checkpoint_every == 0 or done == last:
            spent = time.perf_counter() - began
            save_checkpoint(path, model, optimizer, done, spent)
            print(f"{name} step {done}/{last} loss {sum(losses) / len(losses):.3f} nats, {spent:.0f} s", flush=True)
            losses.clear()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=["dcformer", "transformer"])
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints")
    parser.add_argument("--checkpoint-every", type=int, default=100, help="steps")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    train(arguments.name, arguments.work, arguments.checkpoint_every)


if __name__ == "__main__":
    main()
