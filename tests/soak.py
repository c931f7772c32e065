"""All long forms of the tests, one after another, for as long as is given: python -m tests.soak --minutes 60.

Each part is a command that can be given alone. Fuzzing gets what time is left, an equal share for every reader.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import click

PARTS = {
    "pickles": ["-m", "pytest", "-q", "tests/test_checkpoint_refusals.py"],
    "kills of a harvest": ["-m", "tests.kill_harvest", "--kills", "10"],
    "kills of a harvest of two processes": ["-m", "tests.kill_harvest", "--kills", "10", "--ranks", "2"],
    "kills of a study": ["-m", "tests.kill_study", "--kills", "10"],
    "kills of a training run": ["-m", "pytest", "-q", "tests/test_training_resume.py"],
    "lost ranks": ["-m", "pytest", "-q", "tests/test_harvest_resume.py"],
    "disks": ["-m", "pytest", "-q", "tests/test_full_disks.py"],
    "two processes": ["-m", "pytest", "-q", "tests/test_two_processes.py"],
    "clocks and vanished files": ["-m", "pytest", "-q", "tests/test_clocks_and_vanished_files.py"],
    "strange models": ["-m", "pytest", "-q", "tests/test_strange_models.py"],
    "strange prompts": ["-m", "pytest", "-q", "tests/test_strange_prompts.py"],
    "numbers": ["-m", "pytest", "-q", "tests/test_invariants.py"],
    "five people": ["-m", "pytest", "-q", "tests/test_many_sessions.py"],
    "people who leave": [
        "-m", "pytest", "-q", "tests/test_closed_tabs.py", "tests/test_jobs.py", "tests/test_intervene_page.py"
    ],
    "a slow browser": ["-m", "pytest", "-q", "tests/test_slow_address.py"],
    "twenty people": ["-m", "benchmarks.load", "--sessions", "20", "--minutes", "10"],
}  # fmt: skip
"""Name -> arguments of Python: the commands of docs/reliability.md. Those that draw at random draw anew each time."""


@click.command(help=__doc__)
@click.option("--minutes", default=float(os.environ.get("SOAK_MINUTES", 60)), show_default=True)
def main(minutes: float) -> None:
    end, failed, rounds = time.monotonic() + 60 * minutes, [], 0
    while time.monotonic() < end and not failed:
        rounds += 1
        for name, arguments in PARTS.items():
            if rounds == 1 or time.monotonic() < end:
                failed += [name] * (not _passes(name, arguments))
        from tests.fuzzing.registry import COMPONENTS

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
