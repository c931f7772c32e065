"""Continue a prompt."""

from __future__ import annotations

import time

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
@click.option("--stop", multiple=True, help="A text at which to stop; may be given several times.")
def command(
    model_name: str, device: str, dtype: str | None, prompt: str, max_new_tokens: int,
    temperature: float, top_k: int | None, top_p: float | None, seed: int | None, stop: tuple[str, ...],
) -> None:  # fmt: skip
    """Print a prompt and its continuation as it appears; the speed goes to standard error."""
    from model import Engine

    engine = Engine(open_model(model_name, device, dtype))
    pieces = engine.stream(
        prompt, max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop
    )
    first = next(pieces, "")  # bad input is refused here, before anything is printed
    click.echo(prompt + first, nl=False)
    started, text = time.perf_counter(), first
    for piece in pieces:
        click.echo(piece, nl=False)
        text += piece
    click.echo()
    tokens = len(engine.model.tokenizer.encode(text, add_special_tokens=False)) - 1
    if tokens > 0:
        click.echo(f"{tokens / (time.perf_counter() - started):.1f} tokens/s after the first", err=True)
