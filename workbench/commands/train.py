"""Train models as a YAML file describes."""

from __future__ import annotations

import click


@click.command()
@click.option("--config", "path", required=True, type=click.Path(dir_okay=False), help="YAML, see docs/training.md.")
@click.option("--run", help="Only this one of the file's runs; default: all, one after another.")
@click.option("--seed", type=int, help="Only this seed.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder of the run; default: as the file says.")
@click.option("--steps", type=click.IntRange(min=1), help="Length of the whole run, instead of the file's.")
def command(path: str, run: str | None, seed: int | None, out: str | None, steps: int | None) -> None:
    """Train the runs of a file. Given the same folder again, each goes on where it was stopped.

    Several processes: torchrun --nproc-per-node 2 -m workbench train --config FILE.
    """
    from model.training import read_runs, train

    for config in read_runs(path, run, seed, out, steps):
        outcome = train(config)
        if not outcome.finished:
            click.echo(f"Stopped after step {outcome.step} of {config.steps}. The same command goes on from there.")
            return
        click.echo(f"{config.name}, seed {config.seed}: {outcome.model}")
