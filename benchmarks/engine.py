"""The whole engine, composed against plain and against published einsums: prefill, decoding, a training step.

python -m benchmarks.engine --layers 2 --lengths 256 1024 2048 --out engine.json
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.published_einsums import einsum_attention
from benchmarks.timing import interleaved_medians, machine, markdown_table, matrix_rate, peak_memory
from model import DCFormerConfig, Engine, HookedDCFormer
from model import backends as attention_backends
from model.config import parse_dtype
from model.key_cache import KeyCache, caches_for

COMPOSED, PLAIN, EINSUMS = "composed", "plain", "published einsums"
DECODE_STEPS = 16


@dataclass(frozen=True)
class Figure:
    """One line: seconds of one model for one kind of work at one length, and its peak bytes over the weights."""

    work: str
    length: int
    model: str
    seconds: float
    peak_bytes: int


def with_einsums(*arguments: Any) -> Tensor:
    """The published einsums in the place of a backend; they know no window, so the benchmark gives them none."""
    q, k, v, pre, post = arguments[:5]
    return einsum_attention(q, k, v, pre, post)


def models(preset: str, layers: int, dtype: torch.dtype, device: str) -> dict[str, HookedDCFormer]:
    """The same sizes with composition on and off; all layers global, so that all three compute the same thing."""
    fields = {"n_layers": layers, "n_ctx": 8192, "visible_keys": None, "dtype": dtype, "device": device}
    return {
        COMPOSED: HookedDCFormer(DCFormerConfig.preset(preset, **fields), seed=0),
        PLAIN: HookedDCFormer(DCFormerConfig.preset(preset, compose=False, **fields), seed=0),
    }


def prefill_runs(built: dict[str, HookedDCFormer], tokens: Tensor, einsums: bool) -> dict[str, Callable[[], Any]]:
    engines = {name: Engine(model) for name, model in built.items()}
    if einsums:
        engines[EINSUMS] = Engine(built[COMPOSED], backend=EINSUMS)
    return {name: lambda engine=engine: engine(tokens, last=True) for name, engine in engines.items()}  # type: ignore[misc]


def decode_runs(built: dict[str, HookedDCFormer], tokens: Tensor) -> dict[str, Callable[[], Any]]:
    """DECODE_STEPS tokens after a context that is cached already; each round starts from the same context."""
    runs: dict[str, Callable[[], Any]] = {}
    for name, model in built.items():
        engine = Engine(model)
        with torch.no_grad():
            caches = caches_for(model.cfg.keys_visible, tokens.shape[1] + DECODE_STEPS)
        engine(tokens, last=True, caches=caches)
        runs[name] = lambda engine=engine, caches=caches: decode(engine, caches, tokens)  # type: ignore[misc]
    return runs


def decode(engine: Engine, caches: list[KeyCache], tokens: Tensor) -> None:
    for cache in caches:
        cache.length = tokens.shape[1]
    for step in range(DECODE_STEPS):
        engine(tokens[:, step : step + 1], last=True, caches=caches)


def train_runs(built: dict[str, HookedDCFormer], tokens: Tensor) -> dict[str, Callable[[], Any]]:
    """Forward, loss and backward through the hooked model, which is what trains."""

    def step(model: HookedDCFormer) -> None:
        model.zero_grad(set_to_none=True)
        model(tokens, return_type="loss").backward()

    return {name: lambda model=model: step(model) for name, model in built.items()}  # type: ignore[misc]


def measure(
    work: str, runs: dict[str, Callable[[], Any]], length: int, rounds: int, device: torch.device, per: int = 1
) -> list[Figure]:
    seconds = interleaved_medians(runs, rounds, device)
    return [Figure(work, length, name, seconds[name] / per, peak_memory(run, device)) for name, run in runs.items()]


def table(figures: list[Figure]) -> str:
    plain = {(f.work, f.length): f.seconds for f in figures if f.model == PLAIN}
    rows = [
        [f.work, str(f.length), f.model, f"{f.seconds * 1e3:.1f}", f"{f.seconds / plain[f.work, f.length]:.2f}",
         f"{f.peak_bytes / 2**20:.0f}"]
        for f in figures
    ]  # fmt: skip
    return markdown_table(["work", "tokens", "model", "ms", "x plain", "peak MiB over weights"], rows)


def forward_limit(cfg: DCFormerConfig, length: int, flops_per_s: float) -> float:
    """Seconds that the plain model's matrix products alone take in a prefill (last=True), at the measured rate."""
    width, mlp = cfg.n_heads * cfg.d_head, int(cfg.d_mlp or 0)
    weights = cfg.n_layers * (4 * cfg.d_model * width + (3 if cfg.gated_mlp else 2) * cfg.d_model * mlp)
    attention = cfg.n_layers * 2 * width * length * (length + 1) / 2
    return 2 * (weights * length + attention + cfg.d_model * cfg.d_vocab) / flops_per_s


@click.command(help=__doc__)
@click.option("--preset", default="dcformer-405m", show_default=True)
@click.option("--layers", default=2, show_default=True)
@click.option("--lengths", type=int, multiple=True, help="Prefill lengths; several may follow one another.")
@click.argument("more_lengths", nargs=-1, type=int)
@click.option("--train-up-to", default=1024, show_default=True, help="Longest length of a training step.")
@click.option("--einsums-up-to", default=1024, show_default=True, help="Longest length for the published einsums.")
@click.option("--dtype", default="float32", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Runs of each, taking turns; medians are reported.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the figures as JSON.")
def main(
    preset: str, layers: int, lengths: tuple[int, ...], more_lengths: tuple[int, ...], train_up_to: int,
    einsums_up_to: int, dtype: str, device: str, rounds: int, out: Path | None,
) -> None:  # fmt: skip
    attention_backends.BACKENDS[EINSUMS] = with_einsums
    where, kind = torch.device(device), parse_dtype(dtype)
    built = models(preset, layers, kind, device)
    rate = matrix_rate(kind, where)
    figures: list[Figure] = []
    for length in (*lengths, *more_lengths) or (256, 1024):
        click.echo(f"measuring {length} tokens", err=True)
        tokens = torch.randint(0, built[PLAIN].cfg.d_vocab, (1, length), device=where)
        figures += measure("prefill", prefill_runs(built, tokens, length <= einsums_up_to), length, rounds, where)
        limit = forward_limit(built[PLAIN].cfg, length, rate)
        figures.append(Figure("prefill", length, "arithmetic limit (plain)", limit, 0))
        figures += measure("decode, per token", decode_runs(built, tokens), length, rounds, where, DECODE_STEPS)
        if length <= train_up_to:
            figures += measure("training step", train_runs(built, tokens), length, rounds, where)
    click.echo(f"{preset}, {layers} layers, batch 1, {dtype}, {rate / 1e9:.0f} GFLOP/s matrix product")
    click.echo(table(figures))
    if out is not None:
        record = {"machine": machine(where), "preset": preset, "layers": layers, "matrix_flops_per_s": rate}
        out.write_text(json.dumps(record | {"figures": [asdict(figure) for figure in figures]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
