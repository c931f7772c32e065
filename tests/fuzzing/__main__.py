"""Harm a reader's files in thousands of ways: python -m tests.fuzzing --component config --cases 20000 --seed 1."""

from __future__ import annotations

import time
from pathlib import Path

import click

from tests.fuzzing.registry import COMPONENTS
from tests.fuzzing.runner import run


@click.command(help=__doc__)
@click.option("--component", "names", multiple=True, type=click.Choice(list(COMPONENTS)), help="Default: every one.")
@click.option("--cases", default=20_000, show_default=True, help="Of each component.")
@click.option("--seed", type=int, help="Default: the clock.")
@click.option("--minutes", type=float, help="Stop each component after so long.")
@click.option("--keep", type=click.Path(path_type=Path), help="Write the files of cases that found a fault here.")
def main(names: tuple[str, ...], cases: int, seed: int | None, minutes: float | None, keep: Path | None) -> None:
    seed = time.time_ns() % 2**31 if seed is None else seed
    failed = False
    for name in names or COMPONENTS:
        began = time.monotonic()
        tally = run(COMPONENTS[name](), cases, seed, None if minutes is None else began + 60 * minutes)
        click.echo(f"{tally.line(name)}; {time.monotonic() - began:.0f} s; seed {seed}")
        for number, (fault, case) in enumerate(tally.faults.items()):
            click.echo(f"\nFAULT {fault}: {case}")
            if keep is not None and fault in tally.harmed:
                _keep(keep / f"{name}-{number}", tally.harmed[fault])
        failed = failed or bool(tally.faults) or (tally.cases < cases and minutes is None)
    raise SystemExit(failed)


def _keep(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
