"""SIGKILL at many random moments of one harvest: python -m tests.kill_harvest --kills 20 [--ranks 2]."""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from pathlib import Path

import click

from tests.harvest_runs import command, files_of, start
from tests.test_harvest_resume import kill_at_random

DATA = "tasks:rows=2,rules=0-59"


@click.command(help=__doc__)
@click.option("--kills", default=20, show_default=True)
@click.option("--seed", type=int, help="Of the moments; default: the clock.")
@click.option("--ranks", default=1, show_default=True, help="Processes; each round one is killed, then the others.")
def main(kills: int, seed: int | None, ranks: int) -> None:
    seed = time.time_ns() % 2**32 if seed is None else seed
    rng = random.Random(seed)
    click.echo(f"seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        if start(command(whole, data=DATA)).wait():
            raise SystemExit("The undisturbed harvest failed.")
        for kill in range(kills):
            running = [one_rank(killed, rank, ranks) for rank in rng.sample(range(ranks), ranks)]
            shards = [kill_at_random(process, killed, rng) for process in running][-1]
            click.echo(f"kill {kill + 1}: {shards} shards were finished")
        for rank in rng.sample(range(ranks), ranks):
            if one_rank(killed, rank, ranks).wait():
                raise SystemExit("The last harvest failed.")
        same = files_of(whole) == files_of(killed)
    click.echo(f"{kills} kills, the same bytes" if same else "DIFFERENT")
    raise SystemExit(not same)


def one_rank(out: Path, rank: int, ranks: int) -> subprocess.Popen[bytes]:
    """What torchrun would start, without torchrun, which ends all ranks when one dies."""
    return start(command(out, data=DATA), RANK=str(rank), WORLD_SIZE=str(ranks))


if __name__ == "__main__":
    main()
