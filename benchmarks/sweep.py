"""Seconds of the sweep of layer x site x branch over task rows: python -m benchmarks.sweep [--rows N]."""

from __future__ import annotations

import time

import click

from model import Engine, load_model
from probes.examples import task_examples
from probes.sweeps import branch_cells, sweep
from studies.findings.corpus import measured_rows


@click.command()
@click.option("--model", "name", default="demo/dcformer", show_default=True)
@click.option("--rows", default=200, show_default=True, help="Held-out task rows.")
def main(name: str, rows: int) -> None:
    """Loss and accuracy of every branch zeroed."""
    engine = Engine(load_model(name))
    examples, cells = task_examples(engine.model, measured_rows(rows)), branch_cells(engine.cfg)
    start = time.perf_counter()
    sweep(engine, examples, cells, ["loss", "accuracy"], progress=True)
    click.echo(f"{len(cells)} cells over {rows} rows: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
