"""Engine on a GPU: are recorded runs those as called, and what do they save?

python -m benchmarks.gpu_engine [--layers 32] [--shape dcformer-2.8b]
Random weights of a published shape, bfloat16, batch 1. Nothing is timed if a check fails.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_checks import relative_error
from benchmarks.timing import machine, markdown_table
from model import DCFormerConfig, Engine, HookedDCFormer
from model.key_cache import caches_for
from model.taps import LayerActivations

PROMPT, SHORT, LONG = 512, 8, 72
"""Tokens of the prompt that is continued, and how many are added: the difference of two times has no prompt in it."""


def random_model(shape: str, layers: int, dtype: torch.dtype, device: torch.device, **changes: Any) -> HookedDCFormer:
    """A published shape with random weights; norms scale by 1."""
    cfg = DCFormerConfig.preset(shape, n_layers=layers, device=str(device), dtype=dtype, **changes)
    model = HookedDCFormer(cfg, seed=None)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.fill_(1.0)
            else:
                weight.normal_(0, 0.02, generator=generator)
    return model


def random_tokens(model: HookedDCFormer, batch: int, length: int, seed: int) -> Tensor:
    device = model.embed.W_E.device
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randint(0, model.cfg.d_vocab, (batch, length), generator=generator, device=device)


def left_padding(batch: int, length: int, first: int, device: torch.device) -> Tensor:
    """A mask whose first sequence begins with so many padding tokens."""
    mask = torch.ones(batch, length, dtype=torch.bool, device=device)
    mask[0, :first] = False
    return mask


@torch.no_grad()
def prefill_difference(model: HookedDCFormer, length: int = 333) -> float:
    """Largest relative difference of recorded runs of one shape, with other tokens and padding, from runs as called."""
    recorded, called, worst = Engine(model), Engine(model, graphs=False), 0.0
    for padding in (0, 7, 50, 20):
        tokens = random_tokens(model, 2, length, seed=padding)
        mask = left_padding(2, length, padding, tokens.device)
        given, truth = (engine(tokens, attention_mask=mask)[mask] for engine in (recorded, called))
        worst = max(worst, relative_error(given, truth.double()))
    return worst


@torch.no_grad()
def step_difference(
    model: HookedDCFormer, padding: int, graphs: bool, whole: bool, start: int = 240, end: int = 420
) -> float:
    """Largest relative difference of decoding steps from steps as called or, with whole=True, from one run over all.

    start and end lie on both sides of a local layer's window, so that its ring of keys comes round.
    """
    tokens = random_tokens(model, 2, end, seed=9)
    mask = left_padding(2, end, padding, tokens.device) if padding else None
    ways = [(engine := Engine(model, graphs=on), caches_for(model.cfg.keys_visible, end)) for on in (graphs, False)]
    logits = engine(tokens, attention_mask=mask) if whole else None
    worst = 0.0
    for first, last in [(0, start), *((at, at + 1) for at in range(start, end))]:
        seen = None if mask is None else mask[:, :last]
        given, called = (
            one(tokens[:, first:last], last=True, attention_mask=seen, caches=caches) for one, caches in ways
        )
        truth = called if logits is None else logits[:, last - 1]
        worst = max(worst, relative_error(given, truth.double()))
    return worst


@torch.no_grad()
def tap_difference(model: HookedDCFormer, length: int = 333) -> tuple[float, float]:
    """With a tap that switches mixing off: of an engine with recordings from one without; from the model untouched."""
    recorded, called = Engine(model), Engine(model, graphs=False)
    tokens = random_tokens(model, 1, length, seed=5)
    for _ in range(3):
        recorded(tokens)

    def unmix(at: LayerActivations) -> None:
        at.mixing = {site: mixing.map(lambda factor: factor * 0) for site, mixing in at.mixing.items()}

    with model.tapped(unmix):
        given, truth = recorded(tokens), called(tokens)
    return relative_error(given, truth.double()), relative_error(given, called(tokens).double())


def check_all(shape: str, device: torch.device, say: Callable[[str], None], **changes: Any) -> bool:
    """Print a table of differences; True if all are as they should be."""
    rows, good = [], True

    def row(name: str, value: float, wanted: str, fine: bool) -> None:
        nonlocal good
        good &= fine
        rows.append([name, f"{value:.1e}", wanted, "yes" if fine else "NO"])

    model = random_model(shape, 4, torch.bfloat16, device, **changes)
    difference = prefill_difference(model)
    row("recorded prefill from as called", difference, "0", difference == 0)
    for padding in (0, 33):
        difference = step_difference(model, padding, graphs=True, whole=False)
        row(f"180 recorded steps from as called, padding {padding}", difference, "0", difference == 0)
    apart, from_whole = tap_difference(model)
    row("with a tap: from as called with it", apart, "0", apart == 0)
    row("with a tap: from without it", from_whole, "far", from_whole > 0.1)
    model = random_model(shape, 4, torch.float32, device, **changes)
    difference = step_difference(model, 33, graphs=True, whole=True)
    row("180 recorded steps from one run over all, float32", difference, "below 1e-4", difference < 1e-4)
    say(markdown_table(["largest relative difference", "measured", "wanted", "good"], rows))
    return good


def wall_median(run: Callable[[], Any], rounds: int) -> float:
    """Median seconds of a run from call to result."""
    seconds = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


@torch.no_grad()
def times(model: HookedDCFormer, lengths: tuple[int, ...] = (128, 512, 2048)) -> list[list[str]]:
    """Prefill and generation, as called and recorded, in ms."""
    columns = [engine_times(Engine(model, graphs=graphs), lengths) for graphs in (False, True)]
    return [[name, *(column[name] for column in columns)] for name in columns[0]]


def engine_times(engine: Engine, lengths: tuple[int, ...]) -> dict[str, str]:
    """ms of prompts of these lengths, and of continuing one, by name."""
    cells = {}
    for length in lengths:
        prompt = random_tokens(engine.model, 1, length, seed=1)
        run = partial(engine, prompt, last=True)
        for _ in range(3):
            run()
        cells[f"prompt of {length} tokens"] = f"{wall_median(run, 7) * 1e3:.1f}"
    prompt = random_tokens(engine.model, 1, PROMPT, seed=1)
    engine.generate(prompt, SHORT)
    short, long = (wall_median(partial(engine.generate, prompt, new), 3) for new in (SHORT, LONG))
    cells[f"{SHORT} tokens after a prompt of {PROMPT}"] = f"{short * 1e3:.0f}"
    cells[f"{LONG} tokens after a prompt of {PROMPT}"] = f"{long * 1e3:.0f}"
    cells["a token more"] = f"{(long - short) / (LONG - SHORT) * 1e3:.2f}"
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="dcformer-2.8b")
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    device = torch.device("cuda")

    def say(text: str) -> None:
        print(text, flush=True)

    # a run that falls back to other kernels, or that no graph can hold, would be timed as what it is not
    warnings.filterwarnings("error", message="The Triton kernels|This run cannot be recorded")
    say(f"{machine(device)}\n")
    if not check_all(options.shape, device, say):
        raise SystemExit("The engine's recorded runs are wrong on this GPU: nothing is timed.")
    torch.cuda.empty_cache()
    rows = times(random_model(options.shape, options.layers, torch.bfloat16, device))
    say("\n" + markdown_table([f"Engine, {options.shape}", "as called ms", "recorded ms"], rows))


if __name__ == "__main__":
    main()
