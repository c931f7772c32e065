"""The command line: python -m workbench COMMAND. One file a command in workbench/commands, and one line here."""

from __future__ import annotations

import importlib
import sys
import traceback

import click

COMMANDS = {
    "app": "Open the workbench in the browser.",
    "inspect": "Write a report of how the heads are composed on a prompt.",
    "compare": "Two runs side by side: another model, the twin, another prompt.",
    "generate": "Continue a prompt.",
    "evaluate": "Loss of text files under a sliding context.",
    "train": "Train models as a YAML file describes.",
    "tasks": "Score the in-context tasks of the DCFormer paper.",
    "harvest": "Run a corpus and keep features of its tokens in a store.",
    "study": "Probing studies from YAML files: run them, report what they found.",
    "plan": "How much memory a run takes, and whether it fits.",
    "convert": "Write a checkpoint in another layout.",
}
"""Command -> its one-line help. The module of a command is imported only when it runs: --help stays quick."""


class LazyCommands(click.Group):
    """Commands by name from workbench.commands, and errors as one sentence with exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f"workbench.commands.{name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError, OSError) as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)


@click.group(cls=LazyCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show where an error came from.")
def main(debug: bool) -> None:
    """Look inside dynamically composable multi-head attention."""
