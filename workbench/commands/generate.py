"""Continue a prompt."""

from __future__ import annotations

import click

from workbench.commands.options import model_options, open_model


@click.command(context_settings={"show_default": True})
@model_options
@click.option("--prompt", required=True, help="The text to continue.")
@click.option("--max-new-tokens", default=32, help="How many tokens to add.")
@click.option("--temperature", default=0.0, help="0 is greedy.")
@click.option("--top-k", default=None, type=int, help="Draw from the k most likely tokens.")
@click.option("--top-p", default=None, type=float, help="Draw from the fewest tokens that hold this probability.")
@click.option("--seed", default=None, type=int, help="Of the random draws.")
def command(
    model_name: str, device: str, dtype: str | None, prompt: str, max_new_tokens: int,
    temperature: float, top_k: int | None, top_p: float | None, seed: int | None,
) -> None:  # fmt: skip
    """Print the prompt and its continuation."""
    model = open_model(model_name, device, dtype)
    text = model.generate(
        prompt, max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )  # fmt: skip
    click.echo(text)
