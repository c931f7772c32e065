"""Every promise of docs/reliability.md, one after another, for as long as is given: python -m tests.soak --minutes 60.

Each part is a command that can be given alone; those that draw at random draw anew each time. Fuzzing gets what time
is left, an equal share for every reader.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import click

from tests.fuzzing.registry import COMPONENTS
from tests.promises import PROMISES


@click.command(help=__doc__)
@click.option("--minutes", default=float(os.environ.get("SOAK_MINUTES", 60)), show_default=True)
def main(minutes: float) -> None:
    end, failed, rounds = time.monotonic() + 60 * minutes, [], 0
    while time.monotonic() < end and not failed:
        rounds += 1
        for promise in (one for section in PROMISES.values() for one in section):
            if rounds == 1 or time.monotonic() < end:
                failed += [promise.command] * (not _passes(promise.command, promise.arguments))
        left = max(0.0, end - time.monotonic()) / 60
        for name in COMPONENTS:
            share = min(left, 30.0) / len(COMPONENTS)
            if share > 0:
                told = ["-m", "tests.fuzzing", "--component", name, "--cases", "10000000", "--minutes", f"{share:.3f}"]
                failed += [name] * (not _passes(f"fuzzing of {name}", told))
    click.echo(f"{rounds} rounds; " + (f"FAILED: {', '.join(failed)}" if failed else "nothing failed"))
    raise SystemExit(bool(failed))


def _passes(name: str, arguments: list[str]) -> bool:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    last = next((line for line in reversed(done.stdout.splitlines()) if line.strip()), "")
    click.echo(f"{name}: {'passed' if done.returncode == 0 else 'FAILED'} in {time.monotonic() - began:.0f} s; {last}")
    if done.returncode:
        click.echo(done.stdout[-4000:] + done.stderr[-4000:])
    return done.returncode == 0


if __name__ == "__main__":
    main()
