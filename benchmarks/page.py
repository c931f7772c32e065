"""Time, bytes and memory of the Explore page against its targets: python -m benchmarks.page

Real Chromium on the running app: the bundled composed model (at most its 1024 tokens), and a model of the 405M shape
with random weights. A time runs from the click to the moment the answer is drawn and the page's script has ended;
"the model's own" is what the forward or the head's maps alone take the library in this process, and the rest is held
to the target. Bytes are those of the WebSocket frames received in between.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from playwright.sync_api import Browser, Page

from benchmarks import page_actions as do
from benchmarks.page_actions import Taken
from benchmarks.page_memory import MemoryReading, endurance, sessions
from benchmarks.timing import machine, markdown_table
from model import Capture, DCFormerConfig, HookedDCFormer, capture, load_model, save_model
from model.capture import MAPS
from tests.browser_tools import ROOT, open_browser, serve_streamlit

BUNDLED, RANDOM = "demo/dcformer", "dcformer-405m"
SECONDS = {"to first maps": 3.0, "interaction": 0.3}
KILOBYTES = 500
TEXT = "< Mary has an apple. John has a violin. Paul has a bus. >. Who has violin? John. "


@dataclass(frozen=True)
class Row:
    """One kind of interaction with one model; target: seconds beyond the model's own."""

    model: str
    name: str
    tokens: int
    target: float
    taken: list[Taken]


@click.command(context_settings={"show_default": True})
@click.option("--models", default=(BUNDLED, RANDOM), multiple=True, type=click.Choice([BUNDLED, RANDOM]))
@click.option("--tokens", default=2048, help="Length of the prompt, where the model's context is as long.")
@click.option("--repeats", default=7, help="How often each interaction is done.")
@click.option("--sessions", "people", default=4, help="Sessions at once, each on a prompt of its own; 0 = none.")
@click.option("--interactions", default=1000, help="Of the bundled model, to see whether memory stays flat; 0 = none.")
@click.option("--quick", is_flag=True, help="256 tokens, 2 layers, 3 repeats, 40 interactions: does everything work?")
@click.option("--out", type=click.Path(dir_okay=False), help="Write the numbers as JSON.")
def main(
    models: tuple[str, ...], tokens: int, repeats: int, people: int, interactions: int, quick: bool, out: str | None
) -> None:
    if quick:
        tokens, repeats, people, interactions = 256, 3, min(people, 2), min(interactions, 40)
    rows: list[Row] = []
    memory: list[MemoryReading] = []
    with tempfile.TemporaryDirectory() as folder:
        names = {
            RANDOM: save_random(Path(folder) / RANDOM, 2 if quick else None) if RANDOM in models else "",
            BUNDLED: BUNDLED,
        }
        for model in models:
            with running(Path(folder)) as (address, browser):
                asked = Asked(names[model], load_model(names[model]), tokens)
                found, held = measure(browser, address, model, asked, repeats)
                rows += found
                memory.append(held)
                memory += sessions(browser, address, model, asked.name, asked.prompts(people)) if people else []
            if interactions and model == BUNDLED:
                with running(Path(folder)) as (address, browser):
                    memory += endurance(browser, address, model, asked.prompts(1)[0], interactions, asked.shape)
    click.echo(table(rows, memory))
    if out:
        record = {"machine": machine(torch.device("cpu")), "rows": [asdict(row) for row in rows]}
        Path(out).write_text(json.dumps(record | {"memory": [asdict(one) for one in memory]}, indent=1) + "\n")


def save_random(directory: Path, layers: int | None) -> str:
    """A model of the 405M shape with the bundled pair's tokenizer; its name for the app."""
    cfg = DCFormerConfig.preset(RANDOM, **({} if layers is None else {"n_layers": layers}))
    return str(save_model(HookedDCFormer(cfg, load_model(BUNDLED).tokenizer, seed=0), directory))


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, Browser]]:
    """The app with the models of a folder, and a browser."""
    environment = {"WORKBENCH_MODELS": str(folder)}
    with (
        serve_streamlit(ROOT / "app.py", log=folder / "log", environment=environment) as address,
        open_browser() as browser,
    ):
        yield address, browser


class Asked:
    """A model and long prompts for it. name: what the app calls it."""

    def __init__(self, name: str, model: HookedDCFormer, tokens: int):
        self.name, self.model = name, model
        self.tokens = min(tokens, int(model.cfg.n_ctx))
        self.shape = (model.cfg.n_layers, model.cfg.n_heads)

    def prompts(self, number: int) -> list[tuple[str, int]]:
        """Texts that differ from the first token on, and how many tokens each has."""
        ids = self.model.to_tokens(TEXT * (self.tokens // 16))[0]
        texts = [str(self.model.to_string(ids[start : start + self.tokens])) for start in range(number)]
        return [(text, len(self.model.to_str_tokens(text))) for text in texts]


# -- one model ---------------------------------------------------------------------------------------


def measure(browser: Browser, address: str, model: str, asked: Asked, repeats: int) -> tuple[list[Row], MemoryReading]:
    """Every kind of interaction, and what the server holds afterwards."""
    (prompt, tokens), first, at = asked.prompts(1)[0], SECONDS["to first maps"], do.link(address, asked.name)
    with do.session(browser) as page:  # loads the model, and keeps the short prompt's capture
        do.timed(page, do.opening(page, at))
    rows = []
    with do.session(browser) as page:
        rows.append(Row(model, "page opened, short prompt", 0, first, [do.timed(page, do.opening(page, at))]))
        with torch.no_grad():
            run, own = clocked(lambda: capture(asked.model, prompt))
        typed = do.timed(page, do.typing(page, prompt, tokens))
        rows.append(Row(model, "long prompt typed: the model runs", tokens, first, [with_own(typed, own)]))
        found = interactions(page, asked, run, repeats)
        rows += [Row(model, name, tokens, SECONDS["interaction"], taken) for name, taken in found.items()]
        opened_by = page.url
        held = MemoryReading(model, "one session", do.server_memory())
    if "prompt=" in opened_by:  # else it was too long for a link
        with do.session(browser) as page:
            opened = do.timed(page, do.opening(page, opened_by))
            rows.append(Row(model, "page opened by its link, capture kept", tokens, first, [opened]))
    return rows, held


def interactions(page: Page, asked: Asked, run: Capture, repeats: int) -> dict[str, list[Taken]]:
    layers, heads = asked.shape
    steps: dict[str, Callable[[int], do.Step]] = {
        "another cell": lambda number: do.cell(page, number),
        "another head": lambda number: do.head(page, number, layers, heads),
        "another layer": lambda number: do.layer(page, number, layers, heads),
        "scores / pattern": lambda number: do.kind(page, number),
    }
    found: dict[str, list[Taken]] = {name: [] for name in steps}
    for name, step in steps.items():
        for number in range(repeats):
            taken = do.timed(page, step(number))
            own = own_time(run, *do.chosen(page)) if name in ("another head", "another layer") else 0.0
            found[name].append(with_own(taken, own))
        click.echo(f"{name}: {found[name]}", err=True)
    return found


def own_time(run: Capture, layer: int, head: int) -> float:
    return clocked(lambda: run.maps(layer, MAPS, heads=head))[1]


def clocked(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def with_own(taken: Taken, own: float) -> Taken:
    return Taken(taken.seconds, taken.kilobytes, own)


# -- the table ---------------------------------------------------------------------------------------


def table(rows: list[Row], memory: list[MemoryReading]) -> str:
    header = [
        "model",
        "interaction",
        "tokens",
        "seconds",
        "model's own",
        "beyond it",
        "target",
        "kB sent",
        "target",
    ]
    lines = []
    for row in rows:
        beyond = statistics.median(one.seconds - one.own for one in row.taken)
        sent = statistics.median(one.kilobytes for one in row.taken)
        interaction = row.target == SECONDS["interaction"]
        lines.append([
            row.model, row.name, str(row.tokens or "short"),
            _spread([one.seconds for one in row.taken]), f"{statistics.median(one.own for one in row.taken):.2f}",
            f"{beyond:.2f}", f"{row.target:.1f} {_verdict(beyond, row.target)}",
            f"{sent:.0f}", f"{KILOBYTES} {_verdict(sent, KILOBYTES)}" if interaction else "",
        ])  # fmt: skip
    held = [[one.model, one.when, f"{one.server:.0f}", "" if one.browser is None else f"{one.browser:.1f}", one.verdict]
            for one in memory]  # fmt: skip
    return (
        "median (largest) seconds\n\n" + markdown_table(header, lines) + "\n\n"
        + markdown_table(["model", "memory", "server MB", "JavaScript MB", "target"], held)
    )  # fmt: skip


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({max(values):.2f})"


def _verdict(value: float, target: float) -> str:
    return "met" if value <= target else "missed"


if __name__ == "__main__":
    main()
