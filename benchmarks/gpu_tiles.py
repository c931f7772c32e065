"""Times the prefill kernels with other tile sizes, each kernel by itself: what tiles_for was chosen from.

python -m benchmarks.gpu_tiles --tokens 2048 --d-head 80 128
Needs a CUDA GPU, torch and triton, nothing else. Variants are compiled by several processes first.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from dataclasses import asdict, replace
from itertools import product
from typing import Any

import torch

from benchmarks.gpu_checks import Case, problem
from benchmarks.timing import markdown_table
from model.backends.triton_prefill import Tiles, prefill, tiles_for

SCORE = [
    (64, 64, 4, 3, 3, None), (64, 64, 4, 3, 2, None), (64, 64, 4, 3, 4, None), (64, 64, 8, 3, 3, 128),
    (64, 32, 4, 2, 2, 168), (64, 32, 4, 3, 3, 168), (32, 64, 4, 3, 3, None), (32, 32, 4, 3, 3, None),
]  # fmt: skip
"""queries, keys, warps, stages, stages of factors and registers of score_kernel."""

PATTERN = [(32, 64, 4, 3), (64, 64, 4, 2), (64, 64, 4, 3), (64, 64, 4, 4), (32, 64, 2, 3)]
"""queries, keys, warps, stages of pattern_kernel."""

VALUE = [(64, 4, 3), (64, 4, 4), (64, 4, 5), (64, 8, 4)]
"""keys, warps, stages of value_kernel."""

KERNELS = ("factor_kernel", "score_kernel", "divisor_kernel", "pattern_kernel", "value_kernel")


def variants(base: Tiles) -> list[tuple[str, str, Tiles]]:
    """(kernel, name, tiles) of every variant: one kernel is changed at a time."""
    found = []
    for queries, keys, warps, stages, prefetch, registers in SCORE:
        changed = replace(
            base, queries=queries, keys=keys, score_warps=warps, score_stages=stages, score_prefetch=prefetch,
            score_registers=registers,
            pattern_queries=min(32, queries), pattern_keys=min(64, keys), value_keys=min(64, keys),
        )  # fmt: skip
        name = f"{queries} x {keys}, {warps} warps, {stages} stages, {prefetch} of factors, {registers} registers"
        found.append(("score_kernel", name, changed))
    for queries, keys, warps, ahead in PATTERN:
        changed = replace(
            base, queries=64, keys=64, pattern_queries=queries, pattern_keys=keys, pattern_warps=warps,
            pattern_stages=ahead,
        )  # fmt: skip
        found.append(("pattern_kernel", f"{queries} x {keys}, {warps} warps, {ahead} stages", changed))
    for keys, warps, stages in VALUE:
        changed = replace(base, queries=64, keys=64, value_keys=keys, value_warps=warps, value_stages=stages)
        found.append(("value_kernel", f"{keys} keys, {warps} warps, {stages} stages", changed))
    return found


def run_once(tokens: int, d_head: int, visible_keys: int | None, tiles: dict[str, Any]) -> str:
    """Compile what these tiles need, in this process and so in Triton's cache; the error, if any."""
    try:
        _prefill(problem(Case(tokens, d_head, visible_keys=visible_keys), torch.device("cuda")), Tiles(**tiles))
        torch.cuda.synchronize()
    except Exception as error:  # a variant that does not fit is a result
        return f"{type(error).__name__}: {str(error)[:60]}"
    return ""


def _prefill(given: Any, tiles: Tiles) -> torch.Tensor:
    q, k, v, pre, post, options = given
    return prefill(q, k, v, pre, post, options["visible_keys"], options["query_start"], None, tiles=tiles)[0]


def kernel_times(given: Any, tiles: Tiles, rounds: int = 12) -> dict[str, float]:
    """Median microseconds of each kernel, summed over its launches in one call."""
    for _ in range(2):
        _prefill(given, tiles)
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiled:
        for _ in range(rounds):
            _prefill(given, tiles)
        torch.cuda.synchronize()
    events = {event.key: event.device_time_total / rounds for event in profiled.key_averages()}
    return {name: sum(time for key, time in events.items() if name in key) for name in KERNELS}


def report(tokens: int, d_head: int, visible_keys: int | None, pool: Any) -> None:
    device = torch.device("cuda")
    listed = variants(tiles_for(tokens, visible_keys or tokens // 2, torch.bfloat16))
    errors = pool.starmap(run_once, [(tokens, d_head, visible_keys, asdict(tiles)) for _, _, tiles in listed])
    given = problem(Case(tokens, d_head, visible_keys=visible_keys), device)
    rows = []
    for (kernel, name, tiles), error in zip(listed, errors, strict=True):
        if error:
            rows.append([kernel, name, error, ""])
            continue
        times = kernel_times(given, tiles)
        rows.append([kernel, name, f"{times[kernel]:.1f}", " ".join(f"{t:.0f}" for t in times.values())])
    window = "" if visible_keys is None else f", {visible_keys} visible keys"
    print(f"\n{tokens} tokens, d_head {d_head}{window}, bfloat16, 32 heads, rank 2")
    print(markdown_table(["kernel", "variant", "us", f"us of {', '.join(n.split('_')[0] for n in KERNELS)}"], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--d-head", type=int, nargs="+", default=[80, 128])
    parser.add_argument("--visible-keys", type=int)
    options = parser.parse_args()
    with multiprocessing.get_context("spawn").Pool(min(12, os.cpu_count() or 1)) as pool:
        for d_head, tokens in product(options.d_head, [options.tokens]):
            report(tokens, d_head, options.visible_keys, pool)


if __name__ == "__main__":
    main()
