"""Say what will fit before it is tried."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workbench.commands.options import config_of

if TYPE_CHECKING:
    from model.memory import MemoryPlan

MODES = ("last", "logits", "generate", "capture", "train")
UNITS = {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "MB": 10**6, "GB": 10**9, "TB": 10**12}
MODEL_HELP = "A size of the paper (dcformer-2.8b), a bundled model, a checkpoint directory, or a hub id."


@click.command(context_settings={"show_default": True})
@click.option("--model", "model_name", required=True, help=MODEL_HELP)
@click.option("--tokens", type=int, help="Of each sequence, new ones included; default: the model's context.")
@click.option("--batch", default=1, help="Sequences at a time.")
@click.option("--dtype", help="fp32, bf16, fp16 or fp64; default: as config.json says.")
@click.option("--device", default="auto", help="auto, cuda, mps or cpu; it need not be here.")
@click.option("--mode", default=MODES[0], type=click.Choice(MODES), help="What is run, see above.")
@click.option("--memory", help="Free memory to compare with, as 24GiB; default: what the device has free now.")
@click.option("--json", "json_out", type=click.Path(dir_okay=False, allow_dash=True), help="Write numbers; - = stdout.")
def command(
    model_name: str, tokens: int | None, batch: int, dtype: str | None, device: str,
    mode: str, memory: str | None, json_out: str | None,
) -> None:  # fmt: skip
    """Print what a model and one run of it take at the peak, and whether that fits. Reads no weights.

    Modes: last and logits are the engine with the last position's logits or all; generate adds the key cache;
    capture keeps what every map can be rebuilt from; train is one step of AdamW.
    """
    from model.free_memory import require_fit
    from model.memory import plan
    from workbench.report import write_text

    cfg = config_of(model_name)
    device, there = _device(device)
    planned = plan(cfg, tokens=tokens or cfg.n_ctx, batch=batch, dtype=dtype, device=device, mode=mode)
    free = _free(device, there, memory)
    numbers = json.dumps(_numbers(planned, model_name, free), indent=1)
    if json_out == "-":
        click.echo(numbers)
    else:
        _print_table(planned, model_name)
        _print_verdict(planned, device, free)
    if json_out not in (None, "-"):
        write_text(Path(json_out), numbers)
    if free is not None:
        require_fit(planned, device, free)


def _device(device: str) -> tuple[str, bool]:
    """The device's name, "auto" resolved, and whether it is here."""
    from model.checkpoints import ModelLoadError
    from model.checkpoints.load import pick_device

    try:
        return str(pick_device(device)), True
    except ModelLoadError:
        if not re.fullmatch(r"(cuda|mps)(:\d+)?", device):
            raise
        return device, False


def _free(device: str, there: bool, memory: str | None) -> int | None:
    from model.free_memory import free_memory

    if memory is not None:
        return _bytes(memory)
    return free_memory(device) if there else None


def _bytes(text: str) -> int:
    match = re.fullmatch(rf"(\d+(?:\.\d+)?) ?({'|'.join(UNITS)})", text)
    if match is None:
        raise ValueError(f"--memory {text!r} is not a size. Give a number and a unit: {', '.join(UNITS)}.")
    return int(float(match[1]) * UNITS[match[2]])


def _numbers(planned: MemoryPlan, model_name: str, free: int | None) -> dict[str, Any]:
    from model.config import dtype_name

    run = planned.run
    return {
        "model": model_name, "mode": run.mode, "batch": run.batch, "tokens": run.tokens,
        "dtype": dtype_name(run.dtype), "device": run.device, "total": planned.total, "parts": planned.parts,
        "in_main_memory": planned.in_main_memory, "if_asked": planned.if_asked,
        "free": free, "fits": None if free is None else planned.fits(free),
    }  # fmt: skip


def _print_table(planned: MemoryPlan, model_name: str) -> None:
    from model.memory import in_words

    width = max(len(name) for name, _, _ in planned.rows())

    def line(name: str, size: int, meaning: str) -> None:
        click.echo(f"  {name:{width}}  {in_words(size):>10}  {meaning}")

    click.echo(f"{model_name}: a {planned.run} on {planned.run.device}, at its peak\n")
    for parts, title in (
        (planned.parts, None),
        (planned.in_main_memory, "in main memory, beside the device:"),
        (planned.if_asked, "not part of it, if someone asks for all at once:"),
    ):
        if parts and title:
            click.echo(f"\n{title}")
        for name, size, meaning in planned.rows():
            if name in parts:
                line(name, size, meaning)
        if title is None:
            line("total", planned.total, f"on {planned.run.device}")


def _print_verdict(planned: MemoryPlan, device: str, free: int | None) -> None:
    from model.memory import in_words

    if free is None:
        click.echo(f"\nNo {device} is here to compare with. Give --memory 24GiB, say.")
    elif planned.fits(free):
        click.echo(f"\nIt fits: {in_words(free)} are free on {device}.")
