"""Predicted against measured memory: python -m benchmarks.memory_plan

Each case runs in a process of its own: a model of one of the paper's shapes with few layers, a tiny prompt, so that
PyTorch's libraries make their scratch space and a compiled backend its graphs, and then the run. Measured is how far
the process's resident memory rose above what it was with the weights loaded (VmHWM, set back by
/proc/self/clear_refs: Linux only).
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.timing import machine, markdown_table
from model import DCFormerConfig, Engine, HookedDCFormer, capture
from model.backends import BACKENDS, set_default_backend
from model.config import DTYPES
from model.memory import MemoryPlan, plan

# glibc keeps freed memory below a threshold that it raises on its own; with a fixed one, every tensor is given back
# when it dies (which makes the runs several times slower than usual)
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
WARM_UP_TOKENS = 16
NEW_TOKENS = 4


@dataclass(frozen=True)
class Case:
    """A mode of model.memory, and the shape of the model and of its input."""

    mode: str
    tokens: int
    batch: int = 1
    preset: str = "dcformer-405m"
    layers: int = 2
    vocabulary: int = 50257
    dtype: str = "float32"
    compose: bool = True
    threads: int = 2
    backend: str = "eager"

    @property
    def config(self) -> DCFormerConfig:
        return DCFormerConfig.preset(
            self.preset, n_layers=self.layers, d_vocab=self.vocabulary, n_ctx=max(2048, self.tokens),
            compose=self.compose, dtype=DTYPES[self.dtype],
        )  # fmt: skip

    def predicted(self) -> MemoryPlan:
        return plan(self.config, tokens=self.tokens, batch=self.batch, mode=self.mode)


SHAPES = ((1, 512), (1, 1024), (1, 2048), (1, 4096), (4, 512), (4, 1024), (4, 2048))

CASES = [
    *(Case(mode, tokens, batch) for mode in ("last", "logits") for batch, tokens in SHAPES),
    Case("logits", 4096, 4),
    *(Case("generate", tokens, batch) for batch, tokens in ((4, 1024), (1, 4096))),
    *(Case("capture", tokens, batch) for batch, tokens in ((1, 1024), (1, 4096), (4, 1024))),
    Case("capture", 2048, vocabulary=1000, layers=6),
    *(Case("last", tokens, 4, compose=False) for tokens in (1024, 4096)),
    Case("last", 2048, preset="dcpythia-2.8b", vocabulary=1000),
    Case("last", 2048, preset="dcformer-2.8b", vocabulary=1000),
    Case("train", 1024),
    Case("train", 1024, 4, vocabulary=1000),
]


def measured(case: Case) -> int:
    """Bytes by which the resident memory of a fresh process rises when it runs a case, weights not counted."""
    fresh = multiprocessing.get_context("spawn")
    before = {name: os.environ.get(name) for name in ALLOCATOR}
    os.environ.update(ALLOCATOR)
    try:
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            return pool.submit(_rise, case).result()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _rise(case: Case) -> int:
    torch.set_num_threads(case.threads)
    set_default_backend(case.backend)
    model = HookedDCFormer(case.config, seed=None)
    for parameter in model.parameters():
        parameter.data.fill_(0.01)  # written, so that they are in memory; their values do not matter here
    run = RUNS[case.mode](model)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, case.vocabulary, (case.batch, case.tokens), generator=generator)
    run(tokens[:, :WARM_UP_TOKENS])
    model.zero_grad(set_to_none=True)
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    run(tokens)
    return status("VmHWM") - before


def status(field: str) -> int:
    """Bytes that /proc/self/status tells under a name."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def _last(model: HookedDCFormer) -> Callable[[Tensor], Any]:
    engine = Engine(model)
    return lambda tokens: engine(tokens, last=True)


def _logits(model: HookedDCFormer) -> Callable[[Tensor], Any]:
    return Engine(model)


def _generate(model: HookedDCFormer) -> Callable[[Tensor], Any]:
    engine = Engine(model)
    return lambda tokens: engine.generate(tokens[:, NEW_TOKENS:], NEW_TOKENS)


def _capture(model: HookedDCFormer) -> Callable[[Tensor], Any]:
    engine = Engine(model)
    return lambda tokens: capture(engine, tokens)


def _train(model: HookedDCFormer) -> Callable[[Tensor], Any]:
    def step(tokens: Tensor) -> None:
        # made here, so that the averages are part of what is measured
        optimizer = torch.optim.AdamW(model.parameters())
        model(tokens, return_type="loss").backward()
        optimizer.step()

    return step


RUNS = {"last": _last, "logits": _logits, "generate": _generate, "capture": _capture, "train": _train}


@click.command(context_settings={"show_default": True})
@click.option("--mode", multiple=True, type=click.Choice(list(RUNS)), help="Only cases of these modes.")
@click.option("--threads", default=2, help="Of PyTorch in the measured process.")
@click.option("--backend", default="eager", type=click.Choice(list(BACKENDS)), help="Of composed attention.")
@click.option("--out", type=click.Path(dir_okay=False), help="Write the numbers as JSON.")
def main(mode: tuple[str, ...], threads: int, backend: str, out: str | None) -> None:
    """Print predicted and measured memory beside the weights, in MiB."""
    found = []
    for case in (replace(case, threads=threads, backend=backend) for case in CASES if not mode or case.mode in mode):
        found.append(row(case))
        click.echo(" | ".join(cells(found[-1])), err=True)  # a case takes a while
    header = ["mode", "model", "batch x tokens", "predicted", "measured", "ratio", "largest part"]
    click.echo(markdown_table(header, [cells(one) for one in found]))
    if out:
        Path(out).write_text(json.dumps({"machine": machine(torch.device("cpu")), "rows": found}, indent=1))


def row(case: Case) -> dict[str, Any]:
    """What a case is predicted to take beside the weights and what it was measured to take, in bytes."""
    parts = {name: size for name, size in case.predicted().parts.items() if name != "weights"}
    plain = "" if case.compose else ", plain"
    model = f"{case.preset}{plain}, {case.layers} layers, vocabulary {case.vocabulary}"
    return asdict(case) | {
        "model": model, "predicted": sum(parts.values()), "measured": measured(case), "parts": parts,
    }  # fmt: skip


def cells(found: dict[str, Any]) -> list[str]:
    predicted, rise, parts = found["predicted"], found["measured"], found["parts"]
    return [
        found["mode"], found["model"], f"{found['batch']} x {found['tokens']}", f"{predicted / 2**20:.0f}",
        f"{rise / 2**20:.0f}", f"{predicted / rise:.2f}", max(parts, key=parts.__getitem__),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
