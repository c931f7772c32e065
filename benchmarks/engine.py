"""The whole engine, composed against plain and against published einsums: prefill, capture, decoding, training.

python -m benchmarks.engine --layers 2 --lengths 256 1024 2048 --out engine.json
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.published_einsums import einsum_attention
from benchmarks.timing import (
    interleaved_medians,
    markdown_table,
    matrix_rate,
    peak_memory,
    read_bandwidth,
    save_figures,
)
from model import DCFormerConfig, Engine, HookedDCFormer
from model import backends as attention_backends
from model.backends.blocks import visible_pairs
from model.config import parse_dtype
from model.key_cache import KeyCache, caches_for
from model.memory import Run, key_cache_bytes
from model.recording import Recorder

COMPOSED, PLAIN, EINSUMS = "composed", "plain", "published einsums"
CAPTURED = "composed, all layers captured"
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
    """The published einsums in the place of a backend."""
    q, k, v, pre, post, visible_keys = arguments[:6]
    return einsum_attention(q, k, v, pre, post, visible_keys)


def models(
    preset: str, layers: int, all_global: bool, dtype: torch.dtype, device: str
) -> dict[str, HookedDCFormer]:  # fmt: skip
    """The same sizes with composition on and off."""
    fields: dict[str, Any] = {"n_layers": layers, "n_ctx": 8192, "dtype": dtype, "device": device}
    if all_global:
        fields["visible_keys"] = None
    return {
        COMPOSED: HookedDCFormer(DCFormerConfig.preset(preset, **fields), seed=0),
        PLAIN: HookedDCFormer(DCFormerConfig.preset(preset, compose=False, **fields), seed=0),
    }


def prefill_runs(built: dict[str, HookedDCFormer], tokens: Tensor, einsums: bool) -> dict[str, Callable[[], Any]]:
    engines = {name: Engine(model) for name, model in built.items()}
    if einsums:
        engines[EINSUMS] = Engine(built[COMPOSED], backend=EINSUMS)
    runs: dict[str, Callable[[], Any]] = {
        name: lambda engine=engine: engine(tokens, last=True)  # type: ignore[misc]
        for name, engine in engines.items()
    }
    return runs | {CAPTURED: lambda: recorded(engines[COMPOSED], lambda: engines[COMPOSED](tokens, last=True))}


def recorded(engine: Engine, run: Callable[[], Any]) -> Recorder:
    """Run with a tap that keeps the factors, queries, keys and values of every layer, as a capture does."""
    recorder = Recorder(range(engine.cfg.n_layers))
    with engine.tapped(recorder):
        run()
    return recorder


def decode_runs(built: dict[str, HookedDCFormer], tokens: Tensor) -> dict[str, Callable[[], Any]]:
    """DECODE_STEPS tokens after a context that is cached already; each round starts from the same context."""
    runs: dict[str, Callable[[], Any]] = {}
    for name, model in built.items():
        engine = Engine(model)
        with torch.no_grad():
            caches = caches_for(model.cfg.keys_visible, tokens.shape[1] + DECODE_STEPS)
        engine(tokens, last=True, caches=caches)
        runs[name] = lambda engine=engine, caches=caches: decode(engine, caches, tokens)  # type: ignore[misc]
        if name == COMPOSED:
            runs[CAPTURED] = lambda engine=engine, name=name: recorded(engine, runs[name])  # type: ignore[misc]
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
    attention = 2 * width * sum(visible_pairs(length, seen, 0) for seen in cfg.keys_visible)
    return 2 * (weights * length + attention + cfg.d_model * cfg.d_vocab) / flops_per_s


def decode_limit(model: HookedDCFormer, length: int, bytes_per_s: float) -> float:
    """Seconds to read the plain model's weights and cached keys once, at the measured bandwidth."""
    cfg = model.cfg
    weights = sum(p.nbytes for name, p in model.named_parameters() if name != "embed.W_E" or cfg.tie_embeddings)
    keys = Run(cfg, "generate", 1, 1, length, cfg.dtype, "cpu", room=length)
    return (weights + key_cache_bytes(keys)) / bytes_per_s


@click.command(help=__doc__)
@click.option("--preset", default="dcformer-405m", show_default=True)
@click.option("--layers", default=2, show_default=True)
@click.option("--all-global", is_flag=True, help="No windows; otherwise the preset's own, every other layer local.")
@click.option("--lengths", type=int, multiple=True, help="Prefill lengths; several may follow one another.")
@click.argument("more_lengths", nargs=-1, type=int)
@click.option("--train-up-to", default=1024, show_default=True, help="Longest length of a training step.")
@click.option("--einsums-up-to", default=1024, show_default=True, help="Longest length for the published einsums.")
@click.option("--dtype", default="float32", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Runs of each, taking turns; medians are reported.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the figures as JSON.")
def main(
    preset: str, layers: int, all_global: bool, lengths: tuple[int, ...], more_lengths: tuple[int, ...],
    train_up_to: int, einsums_up_to: int, dtype: str, device: str, rounds: int, out: Path | None,
) -> None:  # fmt: skip
    attention_backends.BACKENDS[EINSUMS] = with_einsums
    where, kind = torch.device(device), parse_dtype(dtype)
    built = models(preset, layers, all_global, kind, device)
    rate, bandwidth = matrix_rate(kind, where), read_bandwidth(where)
    figures: list[Figure] = []
    for length in (*lengths, *more_lengths) or (256, 1024):
        click.echo(f"measuring {length} tokens", err=True)
        tokens = torch.randint(0, built[PLAIN].cfg.d_vocab, (1, length), device=where)
        figures += measure("prefill", prefill_runs(built, tokens, length <= einsums_up_to), length, rounds, where)
        limit = forward_limit(built[PLAIN].cfg, length, rate)
        figures.append(Figure("prefill", length, "arithmetic limit (plain)", limit, 0))
        figures += measure("decode, per token", decode_runs(built, tokens), length, rounds, where, DECODE_STEPS)
        limit = decode_limit(built[PLAIN], length, bandwidth)
        figures.append(Figure("decode, per token", length, "bandwidth limit (plain)", limit, 0))
        if length <= train_up_to:
            figures += measure("training step", train_runs(built, tokens), length, rounds, where)
    windows = "all layers global" if all_global else "the preset's windows"
    click.echo(
        f"{preset}, {layers} layers, {windows}, batch 1, {dtype}, {rate / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.0f} GB/s"
    )
    click.echo(table(figures))
    settings = {"preset": preset, "layers": layers, "all_global": all_global, "dtype": dtype,
                "matrix_flops_per_s": rate, "bytes_per_s": bandwidth}  # fmt: skip
    save_figures(out, where, settings, figures)


if __name__ == "__main__":
    main()
