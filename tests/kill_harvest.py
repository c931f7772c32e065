"""SIGKILL at many random moments of one harvest: python -m tests.kill_harvest --kills 20 [--ranks 2]."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

import click

from tests.harvest_runs import command, files_of, is_finished, receipts, start, start_ranks
from tests.test_harvest_resume import kill_at_random

DATA = "tasks:rows=2,rules=0-59"


@click.command(help=__doc__)
@click.option("--kills", default=20, show_default=True)
@click.option("--seed", type=int, help="Of the moments; default: the clock.")
@click.option("--ranks", default=1, show_default=True, help="Processes under torchrun; the launcher is killed too.")
def main(kills: int, seed: int | None, ranks: int) -> None:
    seed = time.time_ns() % 2**32 if seed is None else seed
    rng = random.Random(seed)
    click.echo(f"seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        if start(command(whole, data=DATA)).wait():
            raise SystemExit("The undisturbed harvest failed.")
        for kill in range(kills):
            run = command(killed, data=DATA)
            shards = kill_at_random(start(run) if ranks == 1 else start_ranks(run, ranks), killed, rng)
            click.echo(f"kill {kill + 1}: {shards} shards were finished")
            while ranks > 1 and not is_finished(killed) and still_written(killed):
                time.sleep(0.1)  # ranks whose launcher was killed end when they notice
        if start(command(killed, data=DATA)).wait():
            raise SystemExit("The last harvest failed.")
        same = files_of(whole) == files_of(killed)
    click.echo("the same bytes" if same else "DIFFERENT")
    raise SystemExit(not same)


def still_written(folder: Path) -> bool:
    before = receipts(folder)
    time.sleep(2.0)
    return receipts(folder) != before


if __name__ == "__main__":
    main()
