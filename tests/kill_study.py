"""SIGKILL at many random moments of one study: python -m tests.kill_study --kills 20."""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from pathlib import Path

import click

from tests.study_runs import fields, fits, planted_corpus, start, written

TABLES = ("results.csv", "results.parquet", "dynamic_share.csv", "dynamic_share.parquet")
LATEST_S = 2.0
"""After the study's folder stands or anything in it grew."""


@click.command(help=__doc__)
@click.option("--kills", default=20, show_default=True)
@click.option("--seed", type=int, help="Of the moments; default: the clock.")
def main(kills: int, seed: int | None) -> None:
    seed = time.time_ns() % 2**32 if seed is None else seed
    rng = random.Random(seed)
    click.echo(f"seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        asked = fields(*planted_corpus(here), probes=["linear", "mlp"], analyses=["probing", "dynamic_share"])
        path = written(here / "study.yaml", asked)
        whole, killed = here / "whole", here / "killed"
        _finish(path, whole)
        for kill in range(kills):
            kill_at_random(start(_command(path, killed)), killed, rng)
            click.echo(f"kill {kill + 1}: {fits(killed)} of {fits(whole)} fits were finished")
        _finish(path, killed)
        different = [name for name in TABLES if (whole / name).read_bytes() != (killed / name).read_bytes()]
    click.echo(f"DIFFERENT: {', '.join(different)}" if different else f"{kills} kills, the same bytes")
    raise SystemExit(bool(different))


def kill_at_random(process: subprocess.Popen[bytes], folder: Path, rng: random.Random) -> None:
    """SIGKILL within LATEST_S of the moment from which the process writes."""
    before = _state(folder)
    while process.poll() is None and _state(folder) == before:
        time.sleep(0.002)
    time.sleep(rng.uniform(0, LATEST_S) ** 2 / LATEST_S)  # most of them early, where a study has not gone far
    process.kill()
    process.communicate()


def _state(folder: Path) -> list[tuple[str, int]]:
    """Files and folders of a study, and when each was changed."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            found.append((str(path), path.stat().st_mtime_ns))
        except FileNotFoundError:
            continue  # a file that took its name meanwhile
    return found


def _command(path: Path, out: Path) -> list[str]:
    return ["study", "run", str(path), "--out", str(out)]


def _finish(path: Path, out: Path) -> None:
    if start(_command(path, out)).wait():
        raise SystemExit(f"The study in {out} failed.")


if __name__ == "__main__":
    main()
