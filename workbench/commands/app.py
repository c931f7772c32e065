"""Start the Streamlit app."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

ROOT = Path(__file__).parents[2]
LOOPBACK = ("127.0.0.1", "localhost")


@click.command(context_settings={"show_default": True})
@click.option("--port", default=8501, type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--host", default=LOOPBACK[0], type=click.Choice(LOOPBACK), help="Loopback address to listen on.")
@click.option("--models", type=click.Path(exists=True, file_okay=False), help="Folder of model directories to offer.")
@click.option("--browser/--no-browser", default=True, help="Open the page in the default browser.")
def command(port: int, host: str, models: str | None, browser: bool) -> None:
    """Open the workbench in the browser.

    It listens on this machine only. To use it from another one, forward the port over ssh:
    ssh -L 8501:127.0.0.1:8501 HOST.
    """
    if models:
        os.environ["WORKBENCH_MODELS"] = str(Path(models).resolve())
    os.chdir(ROOT)  # where .streamlit/config.toml stands
    arguments = [
        sys.executable, "-m", "streamlit", "run", "app.py",
        f"--server.port={port}", f"--server.address={host}", f"--server.headless={str(not browser).lower()}",
    ]  # fmt: skip
    os.execv(sys.executable, arguments)
