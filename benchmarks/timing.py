"""What every benchmark measures with: interleaved times, peak memory, the machine's matrix rate."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Run = Callable[[], Any]


def interleaved_medians(runs: Mapping[str, Run], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each run, after one round that is not counted.

    The runs take turns, so that a busy or throttled machine slows all of them alike and their ratios stay honest;
    each round starts with another one, so that none always runs in the wake of the same.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            synchronise(device)
            start = time.perf_counter()
            runs[name]()
            synchronise(device)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def peak_memory(run: Run, device: torch.device) -> int:
    """The most bytes that a run holds at a time beyond what was held before it, as PyTorch's allocator counts them."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    assert profiled.profiler is not None
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def matrix_rate(dtype: torch.dtype, device: torch.device, size: int = 2048) -> float:
    """Floating-point operations a second of a square matrix product, the best of several: what no kernel can exceed."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _fastest(lambda: left @ right, device)


def read_bandwidth(device: torch.device, numbers: int = 2**26) -> float:
    """Bytes a second of a matrix-vector product far larger than any cache, the best of several."""
    matrix, vector = torch.ones(numbers // 4096, 4096, device=device), torch.ones(4096, device=device)
    return matrix.nbytes / _fastest(lambda: matrix @ vector, device)


def _fastest(run: Run, device: torch.device, rounds: int = 15) -> float:
    seconds = []
    for _ in range(rounds):
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure was measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def save_figures(out: Path | None, device: torch.device, settings: Mapping[str, Any], figures: Sequence[Any]) -> None:
    """Write figures (dataclasses) as JSON, beside the machine and settings that they belong to; nothing without out."""
    if out is not None:
        record = {"machine": machine(device), **settings, "figures": [asdict(figure) for figure in figures]}
        out.write_text(json.dumps(record, indent=1) + "\n")


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Columns of text as a Markdown table; all but the first are aligned to the right."""
    ruler = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ruler, *rows))
