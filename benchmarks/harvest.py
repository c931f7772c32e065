"""Tokens a second of a harvest beside the bare engine's forward on the same batches, and its memory at two lengths."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import click
import torch

from benchmarks.timing import markdown_table, save_figures
from model import Engine, load_model
from probes.corpora import Corpus, JsonLines, TaskRows
from probes.harvest import Keep, harvest
from probes.harvest.encoding import Encoder, Piece
from probes.harvest.forward import batches
from probes.harvest.job import BATCH_TOKENS

FEATURE_SETS: dict[str, list[str]] = {
    "factors": ["factors"],
    "parts (as factors) and predictions": ["parts", "predictions"],
    "residual stream": ["residual"],
    "parts, residual stream, predictions (the default)": ["parts", "residual", "predictions"],
    "parts of one layer and site": ["parts@1.post"],
    "predictions": ["predictions"],
    "row sum and entropy of every head": ["row_sum", "entropy"],
}
BARE, BARE_RESIDUAL = "bare engine, logits", "bare engine, residual stream only"


@dataclass(frozen=True)
class Figure:
    """One line: what is run, its tokens a second by the clock and by the processor's, and the store's bytes a token."""

    work: str
    tokens_per_second: float
    tokens_per_cpu_second: float
    bytes_per_token: float


def write_corpus(path: Path, tokens: int) -> Corpus:
    """Task rows as JSON lines, about so many tokens of the bundled tokenizer; a file, so that making them costs
    nothing."""
    rows = TaskRows(rows=max(1, round(tokens / 74 / 193)))
    with open(path, "w", encoding="utf-8") as file:
        for document in rows:
            file.write(json.dumps({"text": document.text}) + "\n")
    return JsonLines([path])


def bare(engine: Engine, corpus: Corpus, logits: bool) -> Callable[[], None]:
    """The engine's forward on the batches that a harvest of all tokens makes of a corpus of one shard."""
    pieces = list(_pieces(engine, corpus))
    device = torch.device(str(engine.cfg.device))
    made = list(batches(pieces, BATCH_TOKENS[device.type], device))

    def run() -> None:
        for batch in made:
            if logits:
                engine(batch.tokens, attention_mask=batch.mask)
            else:
                engine.residual(batch.tokens, batch.mask)

    return run


def _pieces(engine: Engine, corpus: Corpus) -> Iterator[Piece]:
    encoder = Encoder(engine.model, None)
    for number, document in enumerate(corpus):
        sample = encoder.sample(document)
        yield from encoder.pieces(sample, number, Keep().positions(len(sample), number, None), 0)


def peak_memory(model: str, tokens: int) -> int:
    """Peak resident bytes of a process that harvests a corpus of so many tokens."""
    code = f"from benchmarks.harvest import harvest_once; harvest_once({model!r}, {tokens})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * 2**10


def harvest_once(model: str, tokens: int) -> None:
    """Harvest into a folder that is then removed, and print the peak memory of this process in KiB."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(Path(folder) / "corpus.jsonl", tokens)
        harvest(load_model(model), corpus, Path(folder) / "store", shard_bytes=8 * 2**20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def interleaved_times(runs: dict[str, Callable[[], None]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each run by the clock, and of this process's CPU time, which other jobs disturb less.

    The runs take turns, each round starting with another one, after one round that is not counted.
    """
    clock: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(rounds + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            wall, cpu = time.perf_counter(), time.process_time()
            runs[name]()
            if turn:
                clock[name].append(time.perf_counter() - wall)
                processor[name].append(time.process_time() - cpu)
    return tuple({name: median(values) for name, values in taken.items()} for taken in (clock, processor))  # type: ignore[return-value]


def sizes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@click.command(help=__doc__)
@click.option("--model", "name", default="demo/dcformer", show_default=True)
@click.option("--tokens", default=20_000, show_default=True, help="Of the corpus that is timed.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each, taking turns; medians are reported.")
@click.option("--lengths", type=(int, int), default=(20_000, 80_000), show_default=True, help="For the memory.")
@click.option("--goal", default=0, help="Also time one default harvest of so many tokens.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the figures as JSON.")
def main(name: str, tokens: int, rounds: int, lengths: tuple[int, int], goal: int, out: Path | None) -> None:
    engine = Engine(load_model(name))
    device = torch.device(str(engine.cfg.device))
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(Path(folder) / "corpus.jsonl", tokens)
        count = sum(len(piece.ids) for piece in _pieces(engine, corpus))
        stores: dict[str, Path] = {}

        def harvesting(features: list[str]) -> Callable[[], None]:
            def run() -> None:
                stores[str(features)] = Path(tempfile.mkdtemp(dir=folder))
                harvest(engine, corpus, stores[str(features)], features, labels=None)

            return run

        runs = {BARE: bare(engine, corpus, True), BARE_RESIDUAL: bare(engine, corpus, False)}
        runs |= {work: harvesting(features) for work, features in FEATURE_SETS.items()}
        seconds, processor = interleaved_times(runs, rounds)
        of = {work: sizes(stores[str(features)]) / count for work, features in FEATURE_SETS.items()}
        figures = [Figure(work, count / seconds[work], count / processor[work], of.get(work, 0.0)) for work in runs]
    first = figures[0]
    rows = [
        [figure.work, f"{figure.tokens_per_second:,.0f}", f"{figure.tokens_per_second / first.tokens_per_second:.2f}",
         f"{figure.tokens_per_cpu_second / first.tokens_per_cpu_second:.2f}",
         f"{figure.bytes_per_token:,.0f}" if figure.bytes_per_token else ""]
        for figure in figures
    ]  # fmt: skip
    click.echo(f"{name}, {count:,} tokens in rows of about 193, {torch.get_num_threads()} threads, {device}")
    click.echo(markdown_table(["work", "tokens/s", "x bare", "x bare, CPU time", "bytes a token"], rows))
    for length in lengths:
        click.echo(f"peak memory of a harvest of {length:,} tokens: {peak_memory(name, length) / 2**20:.0f} MiB")
    if goal:
        click.echo(f"{goal:,} tokens, default features and labels: {timed(name, goal):.0f} s")
    save_figures(out, device, {"model": name, "tokens": count}, figures)


def timed(name: str, tokens: int) -> float:
    """Seconds of a whole harvest, planning and writing included."""
    model = load_model(name)
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(Path(folder) / "corpus.jsonl", tokens)
        start = time.perf_counter()
        harvest(model, corpus, Path(folder) / "store")
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
