"""How long attention viewers take to draw the same maps, and where they stop: python -m benchmarks.viewers

Every viewer writes one HTML file with the composed pattern of one layer (2 layers of the 405M shape, random weights,
the same arrays for all), which headless Chromium opens from disk. A time runs from opening the file to the moment its
elements stand and two animation frames have passed. A viewer that fails at one length is not asked for a longer one.

BertViz and CircuitsVis: pip install -r benchmarks/requirements-viewers.txt. Nothing is loaded from a CDN: CircuitsVis
brings its bundle, and what BertViz asks a CDN for is fetched from npm before and served from memory.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import click
import torch
from playwright.sync_api import Error, Page, Route
from playwright.sync_api import TimeoutError as TooLong

from benchmarks.other_viewers import VIEWERS, Maps, Viewer, npm_script
from benchmarks.timing import machine, markdown_table
from model import DCFormerConfig, HookedDCFormer, capture
from tests.browser_tools import open_browser

LENGTHS = (64, 128, 256, 512, 1024, 2048)
OTHERS_UP_TO = 1024
LAYER = 1
"""The global one of the two."""


@dataclass(frozen=True)
class Drawing:
    """One viewer at one length: seconds to write and to draw its file, bytes of it; or why it was not drawn."""

    viewer: str
    tokens: int
    seconds_to_write: float | None = None
    size: int | None = None
    seconds: tuple[float, ...] = ()
    failed: str = ""


@click.command(context_settings={"show_default": True})
@click.option("--lengths", default=LENGTHS, multiple=True, help="Tokens of the prompt; once for each length.")
@click.option("--others-up-to", default=OTHERS_UP_TO, help="Longest prompt for the viewers of others.")
@click.option("--repeats", default=5, help="How often a file is opened, in a new browser each time.")
@click.option("--patience", default=60.0, help="Seconds after which a viewer counts as stopped.")
@click.option(
    "--only", multiple=True, type=click.Choice([v.name for v in VIEWERS]), help="Of the viewers; default all."
)
@click.option("--quick", is_flag=True, help="64 and 128 tokens, opened once: does everything work?")
@click.option("--out", type=click.Path(dir_okay=False), help="Write the numbers as JSON.")
def main(
    lengths: Sequence[int], others_up_to: int, repeats: int, patience: float, only: Sequence[str], quick: bool,
    out: str | None,
) -> None:  # fmt: skip
    for name in ("bertviz", "circuitsvis"):
        if find_spec(name) is None:
            raise click.ClickException(
                f"{name} is not installed. Install it with: pip install -r benchmarks/requirements-viewers.txt"
            )
    lengths, repeats = ((64, 128), 1) if quick else (sorted(lengths), repeats)
    whole = random_maps(max(lengths))
    found: list[Drawing] = []
    viewers = [viewer for viewer in VIEWERS if not only or viewer.name in only]
    for viewer in viewers:
        ours = viewer.name.startswith("canvas")
        for tokens in lengths:
            if ours or tokens <= others_up_to:
                found.append(draw(viewer, whole.first(tokens), repeats, patience))
                click.echo(found[-1], err=True)
                if found[-1].failed:
                    break
    click.echo(table(viewers, found, lengths, len(whole.raw)))
    if out:
        record = {"machine": machine(torch.device("cpu")), "figures": [asdict(one) for one in found]}
        Path(out).write_text(json.dumps(record, indent=1) + "\n")


def random_maps(tokens: int) -> Maps:
    """The pattern of a layer of the 405M shape on random tokens, before and after mixing."""
    cfg = DCFormerConfig.preset("dcformer-405m", n_layers=LAYER + 1, d_vocab=512)
    ids = torch.randint(cfg.d_vocab, (tokens,), generator=torch.Generator().manual_seed(0))
    run = capture(HookedDCFormer(cfg, seed=0), ids, logits=False)
    raw, composed = run.maps(LAYER, ("pattern_raw", "pattern_composed")).values()
    return Maps(raw.numpy(), composed.numpy(), [f"t{number}" for number in ids.tolist()])


# -- one viewer at one length ------------------------------------------------------------------------


def draw(viewer: Viewer, maps: Maps, repeats: int, patience: float) -> Drawing:
    """Write the file once, open it several times."""
    tokens = len(maps.tokens)
    with tempfile.TemporaryDirectory() as folder:
        path, started = Path(folder) / "maps.html", time.perf_counter()
        try:
            path.write_text(viewer.page(maps), "utf-8")
        except MemoryError:
            return Drawing(viewer.name, tokens, failed="no memory to write the file")
        written, size = time.perf_counter() - started, path.stat().st_size
        seconds: list[float] = []
        for _ in range(repeats):
            answer = opened(viewer, path, {"heads": len(maps.raw), "tokens": tokens}, patience)
            if isinstance(answer, str):
                return Drawing(viewer.name, tokens, written, size, tuple(seconds), answer)
            seconds.append(answer)
    return Drawing(viewer.name, tokens, written, size, tuple(seconds))


def opened(viewer: Viewer, path: Path, maps: dict[str, int], patience: float) -> float | str:
    """Seconds from opening a file to drawn in a new browser, or why it was not."""
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(error.message.splitlines()[0]))
        page.on("crash", lambda _: errors.append("the page crashed"))
        serve(page, viewer)
        started = time.perf_counter()
        try:
            page.goto(path.as_uri(), wait_until="commit", timeout=patience * 1000)
            left = patience - (time.perf_counter() - started)
            page.wait_for_function(viewer.drawn, arg=maps, timeout=max(left, 0.001) * 1000)
            page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        except TooLong:
            return errors[0] if errors else f"not within {patience:.0f} s"
        except Error as error:
            return errors[0] if errors else error.message.splitlines()[0]
        seconds = time.perf_counter() - started
        return seconds if seconds <= patience else f"not within {patience:.0f} s"


def serve(page: Page, viewer: Viewer) -> None:
    """Answer what the file loads from elsewhere from memory; anything else of the network is refused."""

    def answer(route: Route) -> None:
        script = viewer.scripts.get(route.request.url)
        if script is None:
            route.abort()
        else:
            route.fulfill(body=fetched(*script), content_type="text/javascript")

    for script in viewer.scripts.values():
        fetched(*script)
    page.route(re.compile("^https?:"), answer)


@cache
def fetched(package: str, version: str, path: str) -> bytes:
    return npm_script(package, version, path)


# -- the table ---------------------------------------------------------------------------------------


def table(viewers: Sequence[Viewer], found: Sequence[Drawing], lengths: Sequence[int], heads: int) -> str:
    """Median seconds to drawn and the file's size, a viewer a line."""
    rows = []
    for viewer in viewers:
        at = {one.tokens: one for one in found if one.viewer == viewer.name}
        rows.append([f"{viewer.name} ({viewer.shows})", *(_text(at.get(tokens)) for tokens in lengths)])
    means = "; ".join(f"{viewer.name}: {viewer.drawn_means}" for viewer in viewers)
    return (
        f"{heads} heads, float32; median seconds from opening the file to drawn, and its MB\n\n"
        + markdown_table(["viewer", *(f"{tokens} tokens" for tokens in lengths)], rows)
        + f"\n\nDrawn means, and two frames after it: {means}."
    )


def _text(one: Drawing | None) -> str:
    if one is None:
        return "-"
    size = "" if one.size is None else f", {one.size / 1e6:.2f} MB"
    return (one.failed or f"{statistics.median(one.seconds):.2f} s") + size


if __name__ == "__main__":
    main()
