"""Probing studies from YAML files: run them, and report what they found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from workbench.commands.options import make_folder

BACKENDS = ("loky", "threading", "sequential", "dask", "ray")


@click.group(context_settings={"show_default": True})
def command() -> None:
    """Studies: harvest, probe, report. See docs/studies.md; some lie ready in studies/."""


@command.command("run")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the study; default: runs/studies/NAME.")
@click.option("--jobs", type=int, default=1, help="Probes fitted at once; -1 = one a core.")
@click.option("--backend", type=click.Choice(BACKENDS), default="loky", help="Where probes are fitted, of joblib.")
@click.option("--scheduler", help="Address of a Dask scheduler, tcp://host:port; its workers need the same folders.")
def run(file: Path, out: Path | None, jobs: int, backend: str, scheduler: str | None) -> None:
    """Run the study that FILE describes; a stopped one goes on, a finished one is only reported again."""
    if scheduler is not None and backend != "dask":
        raise click.UsageError(f"--scheduler belongs to --backend dask, and {backend} was given.")
    folder = out or Path("runs/studies") / file.stem
    from probes.study import Study, run_study

    study = Study.read(file)
    make_folder(folder)
    with _workers(backend, jobs, scheduler):
        run_study(study, folder, progress=True, tell=click.echo)
    _report(folder)


@command.command("report")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(folder: Path) -> None:
    """Write the report of a finished study again, and print what it found."""
    _report(folder)


def _report(folder: Path) -> None:
    from probes.study import findings, read_results
    from workbench.report import write_text
    from workbench.study_report import study_html

    study, tables, _ = read_results(folder)
    write_text(folder / "report.html", study_html(folder))
    if "probing" in tables:
        for one in findings(tables["probing"], study):
            click.echo(f"- {one.model}: {one.text}")
    click.echo(f"{folder}: report.html, results and config.json.")


def _workers(backend: str, jobs: int, scheduler: str | None) -> AbstractContextManager[Any]:
    """joblib's settings for the probes."""
    import joblib

    if backend == "dask":
        return _dask(scheduler)
    if backend == "ray":
        _ray()
    return joblib.parallel_config(backend=backend, n_jobs=jobs) if jobs != 1 else nullcontext()


@contextmanager
def _dask(scheduler: str | None) -> Iterator[None]:
    try:
        from distributed import Client
    except ImportError:
        raise click.UsageError('--backend dask needs Dask: pip install "dask[distributed]".') from None
    import joblib

    if scheduler is None:
        raise click.UsageError("--backend dask needs --scheduler tcp://host:port. Start one with: dask scheduler.")
    try:
        client = Client(scheduler, timeout="20s")
    except (OSError, ValueError) as error:
        raise click.UsageError(f"No Dask scheduler answers at {scheduler} ({error}).") from None
    with client, joblib.parallel_config(backend="dask", client=client):
        yield


def _ray() -> None:
    try:
        from ray.util.joblib import register_ray
    except ImportError:
        raise click.UsageError("--backend ray needs Ray: pip install ray.") from None
    register_ray()
