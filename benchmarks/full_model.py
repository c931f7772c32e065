"""What the Full model page does with a large model: python -m benchmarks.full_model --preset dcformer-405m

Random weights in the published layout and a tokenizer of single words. Loads it as the page does, generates with and
without the composition of each token, beside captures, and in two sessions at once; then unloads it.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import psutil
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.big_checkpoint import write_checkpoint
from benchmarks.timing import markdown_table
from model import DCFormerConfig, Engine, HookedDCFormer
from model.config import PRESETS
from workbench.generating import GenerationRequest, Transcript, generate_watched
from workbench.loading import plan_load, weight_bytes
from workbench.model_choice import ModelChoice
from workbench.session import Workbench
from workbench.viewer.encoding import encode_view
from workbench.views import first_selection, head_maps

Row = tuple[str, str]


@click.command(context_settings={"show_default": True})
@click.option("--preset", default="dcformer-405m", type=click.Choice(list(PRESETS)))
@click.option("--layers", type=int, help="Fewer layers than the preset's.")
@click.option("--dtype", default="float32", help="Of the weights and the computation.")
@click.option("--device", default="auto")
@click.option("--tokens", default=32, help="New tokens of each generation.")
@click.option("--rounds", default=5, help="Generations with and without composition, taking turns.")
@click.option("--long", "length", default=2048, help="Length of the prompt for the first map.")
def main(preset: str, layers: int | None, dtype: str, device: str, tokens: int, rounds: int, length: int) -> None:
    fields: dict[str, Any] = {} if layers is None else {"n_layers": layers}
    cfg = DCFormerConfig.preset(preset, dtype=getattr(torch, dtype), **fields)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(cfg, Path(folder))
        words(cfg.d_vocab).save_pretrained(folder)
        rows = []
        for what, found in measure(ModelChoice(folder, device), cfg, tokens, rounds, length):
            click.echo(f"{what}: {found}", err=True)
            rows.append([what, found])
    click.echo(f"{preset}, {cfg.n_layers} layers, {dtype} on {device}, {torch.get_num_threads()} threads\n")
    click.echo(markdown_table(["what", "measured"], rows))


def words(size: int) -> PreTrainedTokenizerFast:
    """w0, w1, ... separated by spaces."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0")


def measure(choice: ModelChoice, cfg: DCFormerConfig, tokens: int, rounds: int, length: int) -> Iterator[Row]:
    bench, before = Workbench(), resident()
    started = time.perf_counter()
    plan_load(choice)
    yield "seconds to the plan", f"{time.perf_counter() - started:.2f}"
    started = time.perf_counter()
    job = bench.start_load(choice)
    job.wait()
    name = job.value()
    yield "seconds to load", f"{time.perf_counter() - started:.2f}"
    weights = weight_bytes(bench.model(name))
    yield (
        "resident after loading",
        f"{(resident() - before) / 2**20:.0f} MiB, weights {weights / 2**20:.0f} MiB",
    )
    yield from speeds(bench.model(name), name, tokens, rounds)
    yield from side_by_side(bench, name, tokens)
    yield from first_map(bench, name, cfg, length)
    started = time.perf_counter()
    bench.unload(name)
    yield "seconds to unload", f"{time.perf_counter() - started:.2f}"
    yield "resident after unloading", f"{(resident() - before) / 2**20:.0f} MiB more than before loading"


def speeds(model: HookedDCFormer, name: str, tokens: int, rounds: int) -> list[Row]:
    """Decoding without the workbench, watched, and watched with the composition of each token, taking turns."""
    prompt = " ".join(f"w{n}" for n in range(16))
    seconds: dict[str, list[float]] = {}

    def timed(run: Callable[[], Any]) -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    def generation(composition: bool) -> None:
        request = GenerationRequest(name, prompt, tokens, composition=composition)
        generate_watched(model, request, Transcript(prompt), lambda done, total: None, nullcontext)

    runs: dict[str, Callable[[], Any]] = {
        "Engine.stream": lambda: list(Engine(model).stream(prompt, tokens)),
        "watched": lambda: generation(False),
        "watched, with composition": lambda: generation(True),
    }
    for turn in range(rounds + 1):
        for what, run in runs.items():
            took = timed(run)
            if turn:
                seconds.setdefault(what, []).append(took)
    steps = {"watched, with composition": tokens + 1}
    per = {what: sorted(found)[len(found) // 2] / steps.get(what, tokens) for what, found in seconds.items()}
    return [
        (f"ms a step, {what}", f"{value * 1e3:.1f} ({value / per['Engine.stream']:.3f} of Engine.stream)")
        for what, value in per.items()
    ]


def side_by_side(bench: Workbench, name: str, tokens: int) -> list[Row]:
    """Two sessions generate while a third captures a short prompt again and again."""
    outs = [Transcript(f"w{n} w7 w9") for n in (3, 5)]
    jobs = [bench.start_generation(GenerationRequest(name, out.prompt, tokens), out) for out in outs]
    waits: list[float] = []
    while all(job.running for job in jobs):
        began = time.perf_counter()
        bench.capture(name, f"w{len(waits)} w2 w4 w6")
        waits.append(time.perf_counter() - began)
    lengths = [len(out.tokens) for out in outs]
    for job in jobs:
        job.wait()
        job.value()
    return [
        ("two sessions, tokens when the first ended", " and ".join(map(str, lengths))),
        ("a third one's captures meanwhile", f"{len(waits)}, median {sorted(waits)[len(waits) // 2]:.2f} s"),
    ]


def first_map(bench: Workbench, name: str, cfg: DCFormerConfig, length: int) -> list[Row]:
    """From a long prompt to the bytes of the first head's maps."""
    prompt = " ".join(f"w{n * 7919 % cfg.d_vocab}" for n in range(length))
    times, began = [], time.perf_counter()
    run = bench.capture(name, prompt)
    times.append(("capture", time.perf_counter() - began))
    selection = first_selection(run, bench.distances(name, prompt))
    times.append(("where to look first", time.perf_counter() - began))
    maps = bench.maps(name, prompt, selection.layer, selection.head)
    sent = encode_view(head_maps(maps, run, selection, "pattern"))
    times.append((f"first maps ({len(sent) / 1e3:.0f} kB)", time.perf_counter() - began))
    told = ", ".join(f"{what} {at:.1f}" for what, at in times)
    return [(f"{length} tokens, seconds until", told), ("memory of that capture", f"{run.nbytes / 2**20:.0f} MiB")]


def resident() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    main()
