"""Start the app, on this machine alone or, behind a password, for others too."""

from __future__ import annotations

import os
from pathlib import Path

import click

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(context_settings={"show_default": True})
@click.option("--port", default=8501, type=click.IntRange(0, 65535), help="Port to listen on; 0 = a free one.")
@click.option("--host", default="127.0.0.1", help="Address to listen on; other than loopback it demands a password.")
@click.option("--password-file", type=FILE, help="File whose first line is the password; only you may open it.")
@click.option("--token", is_flag=True, help="Make a password and print one link that holds it.")
@click.option("--certificate", type=FILE, help="TLS certificate chain (PEM).")
@click.option("--key", type=FILE, help="TLS private key (PEM).")
@click.option("--models", multiple=True, type=FOLDER, help="Folder of models to offer; may be repeated.")
@click.option("--stores", multiple=True, type=FOLDER, help="Folder of stores and studies to offer; may be repeated.")
@click.option("--hub", is_flag=True, help="Let people fetch models from the Hugging Face hub.")
@click.option("--browser/--no-browser", default=True, help="Open the page in the default browser.")
def command(
    port: int, host: str, password_file: Path | None, token: bool, certificate: Path | None, key: Path | None,
    models: tuple[Path, ...], stores: tuple[Path, ...], hub: bool, browser: bool,
) -> None:  # fmt: skip
    """Open the workbench in the browser.

    It listens on this machine only. To use it from another one, forward the port over ssh (ssh -L
    8501:127.0.0.1:8501 HOST), or give --host and a password: in a file, in WORKBENCH_PASSWORD, or made by --token.
    A password is asked for on this machine too if one is given. It is never an option itself: others could read it in
    the list of processes.
    """
    from workbench.serving.secret import new_token, password_from_environment, password_from_file
    from workbench.serving.settings import Serving

    given = password_from_environment()
    if sum((given is not None, password_file is not None, token)) > 1:
        raise ValueError("Give one password: --password-file, WORKBENCH_PASSWORD or --token.")
    password = password_from_file(password_file) if password_file else new_token() if token else given
    serving = Serving(host, port, password, token, certificate, key, browser)
    _configure(models, stores, hub)
    from workbench.serving.server import serve  # seconds to import: only once the options are known to be good

    serve(serving)


def _configure(models: tuple[Path, ...], stores: tuple[Path, ...], hub: bool) -> None:
    """Say in the environment what may be opened, where the pages read it: whole paths, as the server goes elsewhere."""
    from workbench.access import ALLOW_HUB, MODELS, STORES, given_folders

    for name, folders in ((MODELS, models), (STORES, stores)):
        whole = tuple(folder.resolve() for folder in folders) or given_folders(os.environ, name)
        if whole:
            os.environ[name] = os.pathsep.join(map(str, whole))
    if hub:
        os.environ[ALLOW_HUB] = "1"
