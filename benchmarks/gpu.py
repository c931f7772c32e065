"""Composed attention on a GPU: is it right, and how fast is it beside plain attention, compiled chunks and the limits?

python -m benchmarks.gpu [--out gpu.json] [--parts checks attention prefill decode]
Needs a CUDA GPU, torch and triton, nothing else. Random inputs and weights, bfloat16, batch 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_checks import Case, check_all, problem, relative_error
from benchmarks.gpu_decode import Decoder
from benchmarks.gpu_layers import SHAPES, Stack, fused_attention
from benchmarks.timing import machine, markdown_table, matrix_rate, peak_memory
from model.backends import composed_attention
from model.backends.blocks import visible_pairs

Run = Callable[[], Any]
PARTS = ("checks", "attention", "memory", "prefill", "decode")
PLAIN = "plain (SDPA)"
MEMORY_HEADER = ["tokens", "peak MiB", "KiB a token", "ms"]
PREFILL_HEADER = ["shape", "tokens", "model", "ms (graph)", "x plain", "ms (as called)", "peak MiB over weights"]
DECODE_HEADER = ["shape", "context", "model", "ms a token", "bandwidth limit ms", "reached"]


def event_median(run: Run, rounds: int) -> float:
    """Median seconds of a run on the GPU, after two that are not counted, by events around each."""
    seconds = []
    for turn in range(rounds + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        if turn > 1:
            seconds.append(start.elapsed_time(end) / 1e3)
    return median(seconds)


def as_graph(run: Run) -> Run:
    """The run as one CUDA graph: what the GPU alone takes, without Python between the kernels."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def copy_bandwidth(device: torch.device, gib: int = 4) -> float:
    """Bytes read plus bytes written a second by a copy far larger than any cache."""
    source = torch.randn(gib * 2**28, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / event_median(lambda: target.copy_(source), 5)


@torch.no_grad()
def attention_row(d_head: int, length: int, compiled_up_to: int, rounds: int) -> dict[str, Any]:
    """Times of one attention call, 32 heads: SDPA, the kernels as a graph and as called, compiled chunks."""
    device = torch.device("cuda")
    q, k, v, pre, post, _ = problem(Case(length, d_head), device)

    def composed(backend: str, visible_keys: int | None = None) -> Run:
        return lambda: composed_attention(q, k, v, pre, post, visible_keys=visible_keys, backend=backend)

    runs: dict[str, Run] = {"SDPA": lambda: fused_attention(q, k, v), "triton": composed("triton")}
    runs["triton, 256 keys"] = composed("triton", min(256, length))
    row: dict[str, Any] = {"tokens": length, "d_head": d_head}
    for name, run in runs.items():
        row[f"{name}, as called"] = event_median(run, rounds)
        row[name] = event_median(as_graph(run), rounds)
    if length <= compiled_up_to:
        row["compiled"] = event_median(composed("compiled"), rounds)
    return row | {"peak": peak_memory(runs["triton"], device)}


def attention_table(rows: list[dict[str, Any]]) -> str:
    header = ["d_head", "tokens", "SDPA ms", "triton ms", "x SDPA", "as called ms", "256 keys ms", "compiled ms",
              "x triton", "peak MiB"]  # fmt: skip
    cells = []
    for row in rows:
        compiled = row.get("compiled")
        cells.append([
            str(row["d_head"]), str(row["tokens"]), ms(row["SDPA"]), ms(row["triton"]),
            f"{row['triton'] / row['SDPA']:.2f}", ms(row["triton, as called"]), ms(row["triton, 256 keys"]),
            "" if compiled is None else ms(compiled), "" if compiled is None else f"{compiled / row['triton']:.1f}",
            f"{row['peak'] / 2**20:.0f}",
        ])  # fmt: skip
    return markdown_table(header, cells)


@torch.no_grad()
def memory_row(length: int) -> list[str]:
    """Peak memory of one call beyond its inputs."""
    device = torch.device("cuda")
    q, k, v, pre, post, _ = problem(Case(length, 128), device)

    def run() -> Tensor:
        return composed_attention(q, k, v, pre, post, backend="triton")

    held, seconds = peak_memory(run, device), event_median(run, 1)
    return [str(length), f"{held / 2**20:.0f}", f"{held / length / 2**10:.1f}", ms(seconds)]


def prefill_rows(stack: Stack, length: int, rate: float, compiled_up_to: int, rounds: int) -> list[list[str]]:
    """Whole-model prefill: plain, composed, composed by compiled chunks, and what its matrix products alone take."""
    shape, tokens = stack.shape, torch.randint(0, 50257, (1, length), device=stack.device)

    def prefill(backend: str | None) -> Run:
        return lambda: stack.prefill(tokens, backend)

    names: dict[str, str | None] = {PLAIN: None, "composed, triton": "triton"}
    if length <= compiled_up_to:
        names["composed, compiled chunks"] = "compiled"
    times: dict[str, tuple[float, float, int]] = {}
    for name, backend in names.items():
        called = event_median(prefill(backend), rounds)
        held = peak_memory(prefill(backend), stack.device)
        graph = called if backend == "compiled" else event_median(as_graph(prefill(backend)), rounds)
        times[name] = graph, called, held
        free()
    plain = times[PLAIN][0]
    rows = [
        [shape.name, str(length), name, ms(graph), f"{graph / plain:.2f}", ms(called), f"{held / 2**20:.0f}"]
        for name, (graph, called, held) in times.items()
    ]
    pairs = visible_pairs(length, None, 0) * len(stack.layers)
    limit = (2 * stack.numbers() * length + 4 * shape.d_model * pairs) / rate
    return [*rows, [shape.name, str(length), "arithmetic limit (plain)", ms(limit), f"{limit / plain:.2f}", "", ""]]


@torch.no_grad()
def step_error(stack: Stack, composed: bool) -> float:
    """Relative error of the fused step's logits against those of the functions that prefill uses, both rounded."""
    slow, fused = (Decoder(stack, composed, 300, 8, fused=way) for way in (False, True))
    for mine, theirs in zip(fused.caches, slow.caches, strict=True):
        for kept, value in zip(mine, theirs, strict=True):
            kept.copy_(value)
    return relative_error(fused.logits(), slow.logits().double())


def decode_row(stack: Stack, context: int, composed: bool, bandwidth: float, steps: int = 40) -> list[str]:
    """Milliseconds a token of decoding, each step one CUDA graph, beside one reading of all weights and keys."""
    decoder = Decoder(stack, composed, context, steps + 8)
    replay = as_graph(decoder.step)
    decoder.position.fill_(context)
    seconds = event_median(replay, steps - 2)
    limit = (stack.nbytes(composed) + decoder.nbytes) / bandwidth
    name = "composed, triton" if composed else PLAIN
    return [stack.shape.name, str(context), name, ms(seconds), ms(limit), f"{limit / seconds:.0%}"]


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}" if seconds < 0.01 else f"{seconds * 1e3:.1f}"


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--long-lengths", type=int, nargs="+", default=[8192, 16384, 32768])
    parser.add_argument("--prefill-lengths", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--contexts", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--compiled-up-to", type=int, default=2048, help="Longest text for the compiled chunks.")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--layers", type=int, help="Layers of the whole models; as published if not given.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, help="Where to write the attention figures as JSON.")
    options = parser.parse_args()
    device, began = torch.device("cuda"), time.monotonic()
    warnings.simplefilter("always")

    def say(text: str) -> None:
        print(text, flush=True)

    rate, bandwidth = matrix_rate(torch.bfloat16, device, 8192), copy_bandwidth(device)
    free()
    say(f"{machine(device)}\nmatrix product {rate / 1e12:.0f} TFLOP/s (bf16), copy {bandwidth / 1e12:.2f} TB/s\n")
    figures: list[dict[str, Any]] = []
    if "checks" in options.parts and not check_all("triton", device):
        raise SystemExit("Composed attention is wrong on this GPU: nothing is timed.")
    if "attention" in options.parts:
        for d_head, length in product((80, 128), options.lengths):
            figures.append(attention_row(d_head, length, options.compiled_up_to, options.rounds))
            free()
        say("\nOne attention call, 32 heads, rank 2\n" + attention_table(figures))
    if "memory" in options.parts:
        cells = [memory_row(length) for length in options.long_lengths]
        say("\nMemory of one call, 32 heads of 128\n" + markdown_table(MEMORY_HEADER, cells))
    for name in options.shapes if {"prefill", "decode"} & set(options.parts) else ():
        free()
        stack = Stack(SHAPES[name], device, compiled=True, layers=options.layers)
        if "prefill" in options.parts:
            rows = [prefill_rows(stack, length, rate, options.compiled_up_to, 5) for length in options.prefill_lengths]
            say("\nPrefill\n" + markdown_table(PREFILL_HEADER, [row for part in rows for row in part]))
        if "decode" in options.parts:
            each = product(options.contexts, (False, True))
            cells = [decode_row(stack, context, composed, bandwidth) for context, composed in each]
            errors = ", ".join(f"{step_error(stack, composed):.1e}" for composed in (False, True))
            say(f"\nThe fused step's logits differ from the functions' by (plain, composed) {errors}")
            say("\nDecoding\n" + markdown_table(DECODE_HEADER, cells))
        del stack
    if options.out is not None:
        record = {"machine": machine(device), "matrix_flops_per_s": rate, "copy_bytes_per_s": bandwidth}
        options.out.write_text(json.dumps(record | {"attention": figures}, indent=1) + "\n")
    say(f"\n{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
