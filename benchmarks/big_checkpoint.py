"""Loading a large checkpoint: seconds, memory and the first logits: python -m benchmarks.big_checkpoint --folder DIR

Writes a model of one of the paper's sizes with random bfloat16 weights in the published layout, shard by shard, loads
it in a process of its own, and deletes it. The files are dropped from the page cache before they are read.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.memory_plan import status
from benchmarks.timing import machine, markdown_table
from model import DCFormerConfig, Engine, load_model
from model.checkpoints.assemble import empty_model
from model.checkpoints.published import write
from model.config import PRESETS
from model.memory import parameter_count

SHARD_BYTES = 2**29
DISK_SHARE = 1.4
"""Free disk space asked for, in sizes of the checkpoint: 8 GB for the 2.8B models."""

PROMPT_TOKENS = 16


@click.command(context_settings={"show_default": True})
@click.option("--folder", required=True, type=click.Path(exists=True, file_okay=False), help="Where to write it.")
@click.option("--model", "preset", default="dcformer-2.8b", type=click.Choice(list(PRESETS)))
@click.option("--threads", default=2, help="Of PyTorch in the loading process.")
@click.option("--out", type=click.Path(dir_okay=False), help="Write the numbers as JSON.")
def main(folder: str, preset: str, threads: int, out: str | None) -> None:
    cfg = DCFormerConfig.preset(preset, dtype=torch.bfloat16)
    size = parameter_count(cfg) * 2
    free = shutil.disk_usage(folder).free
    if free < DISK_SHARE * size:
        raise click.ClickException(
            f"{folder} has {free / 1e9:.1f} GB free, {preset} needs {DISK_SHARE * size / 1e9:.1f} GB. "
            "Give another --folder or a smaller --model."
        )
    with tempfile.TemporaryDirectory(dir=folder) as directory:
        started = time.perf_counter()
        shards = write_checkpoint(cfg, Path(directory))
        written = time.perf_counter() - started
        for path in Path(directory).glob("*.safetensors"):
            drop_from_page_cache(path)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(load, directory, threads).result()
    found = {"model": preset, "weights": size, "shards": shards, "seconds to write": written} | found
    click.echo(table(found))
    if out:
        Path(out).write_text(json.dumps({"machine": machine(torch.device("cpu"))} | found, indent=1))


def table(found: dict[str, Any]) -> str:
    size = found["weights"]
    rows = [["weights", f"{size / 2**30:.2f} GiB in {found['shards']} shards"]]
    rows += [
        [name, f"{found[name]:.1f}"] for name in ("seconds to write", "seconds to load", "seconds to first logits")
    ]
    for name in ("peak RssAnon", "VmHWM"):
        rows.append([f"{name} while loading", f"{found[name] / 2**30:.2f} GiB, {found[name] / size:.2f} x weights"])
    return markdown_table([found["model"], "bfloat16"], rows)


# -- writing ---------------------------------------------------------------------------------------


def write_checkpoint(cfg: DCFormerConfig, directory: Path) -> int:
    """Random weights in the published layout; returns how many shards. One shard is in memory at a time."""
    config, tensors = write(empty_model(cfg))
    (directory / "config.json").write_text(json.dumps(config))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(in_shards(tensors)):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, directory / name)
        weight_map |= dict.fromkeys(shard, name)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return len(set(weight_map.values()))


def in_shards(tensors: Iterator[tuple[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    """The named tensors, those without values given random ones."""
    shard: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    for name, like in tensors:
        if shard and sum(t.nbytes for t in shard.values()) + like.nbytes > SHARD_BYTES:
            yield shard
            shard = {}
        if like.is_meta:
            like = torch.empty(like.shape, dtype=like.dtype).normal_(0.0, 0.02, generator=generator)
        shard[name] = like
    yield shard


def drop_from_page_cache(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


# -- loading ---------------------------------------------------------------------------------------


def load(directory: str, threads: int) -> dict[str, Any]:
    """Seconds and, beyond what the process took before, bytes."""
    torch.set_num_threads(threads)
    Path("/proc/self/clear_refs").write_text("5")
    before, anonymous = status("VmRSS"), status("RssAnon")
    with Sampler() as sampled:
        started = time.perf_counter()
        model = load_model(directory, device="cpu", dtype=torch.bfloat16)
        loaded = time.perf_counter()
    high = status("VmHWM")
    tokens = torch.arange(PROMPT_TOKENS)[None]
    first = time.perf_counter()
    Engine(model)(tokens, last=True)
    return {
        "seconds to load": loaded - started,
        "seconds to first logits": time.perf_counter() - first,
        "peak RssAnon": sampled.peak - anonymous,
        "VmHWM": high - before,
    }


class Sampler:
    """Reads RssAnon, of which the system keeps no peak, every 5 ms: peak is in bytes."""

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, status("RssAnon"))


if __name__ == "__main__":
    main()
