"""One training step, composed against plain, in one run: seconds, and peak memory over weights and optimizer.

python -m benchmarks.training --layers 2 --lengths 256 --lengths 1024 --lengths 2048 --out training.json
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.engine import COMPOSED, PLAIN, Figure, measure, table
from benchmarks.timing import save_figures
from model import DCFormerConfig, HookedDCFormer
from model.training import TrainConfig
from model.training.distributed import Ranks
from model.training.step import Trainer, make_trainer, train_step


def trainers(preset: str, layers: int, rows: int, longest: int, dtype: str, device: torch.device) -> dict[str, Trainer]:
    """The same sizes with composition on and off, each with its optimizer."""
    recipe = TrainConfig(model=preset, data={}, steps=1000, length=longest, rows_per_step=rows, dtype=dtype,
                         learning_rate=3e-4)  # fmt: skip
    return {
        name: make_trainer(HookedDCFormer(_sizes(preset, layers, longest, compose), seed=0), recipe, Ranks(device))
        for name, compose in ((COMPOSED, True), (PLAIN, False))
    }


def _sizes(preset: str, layers: int, longest: int, compose: bool) -> DCFormerConfig:
    return DCFormerConfig.preset(preset, n_layers=layers, n_ctx=longest, compose=compose, device="cpu")


def update(trainer: Trainer, tokens: Tensor, weights: Tensor, accumulate: int) -> None:
    train_step(trainer, tokens, weights, accumulate)
    # held on to, the gradients would count as there before the next step, whose peak they are part of
    trainer.optimizer.zero_grad()


def step_runs(built: dict[str, Trainer], tokens: Tensor, accumulate: int) -> dict[str, Callable[[], Any]]:
    """Whole updates: forward, backward, clip and AdamW."""
    weights = torch.ones(tokens.shape)
    return {
        name: lambda trainer=trainer: update(trainer, tokens, weights, accumulate)  # type: ignore[misc]
        for name, trainer in built.items()
    }


@click.command(help=__doc__)
@click.option("--preset", default="dcformer-405m", show_default=True)
@click.option("--layers", default=2, show_default=True)
@click.option("--lengths", type=int, multiple=True, default=(256, 1024, 2048), show_default=True)
@click.option("--rows", default=1, show_default=True, help="Rows of a step.")
@click.option("--accumulate", default=1, show_default=True, help="Parts in which a step's rows are taken.")
@click.option("--dtype", default="auto", show_default=True, help="auto, float32, or bfloat16 (autocast).")
@click.option("--device", default="cpu", show_default=True)
@click.option("--rounds", default=3, show_default=True, help="Steps of each, taking turns; medians are reported.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the figures as JSON.")
def main(
    preset: str, layers: int, lengths: tuple[int, ...], rows: int, accumulate: int, dtype: str, device: str,
    rounds: int, out: Path | None,
) -> None:  # fmt: skip
    where = torch.device(device)
    built = trainers(preset, layers, rows, max(lengths), dtype, where)
    vocabulary = built[PLAIN].model.cfg.d_vocab
    figures: list[Figure] = []
    for length in lengths:
        click.echo(f"measuring {length} tokens", err=True)
        tokens = torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(length))
        figures += measure("training step", step_runs(built, tokens, accumulate), length, rounds, where)
    click.echo(f"{preset}, {layers} layers, {rows} rows in {accumulate} parts, dtype {dtype}")
    click.echo(table(figures))
    settings = {"preset": preset, "layers": layers, "rows": rows, "accumulate": accumulate, "dtype": dtype}
    save_figures(out, where, settings, figures)


if __name__ == "__main__":
    main()
