"""How long an interaction with the Explore page takes and what it sends: python -m benchmarks.page

Real Chromium on the running app, the bundled composed model, one long prompt. A time runs from the click to the
moment the browser has drawn the answer; bytes are those of the WebSocket frames received in between.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
from playwright.sync_api import Page, Position, WebSocket, expect

from model import load_model
from tests.browser_tools import ROOT, open_browser, serve_streamlit

PATIENCE_MS = 120_000


class Traffic:
    """Counts the bytes of WebSocket frames that a page receives."""

    def __init__(self, page: Page):
        self.bytes = 0
        page.on("websocket", self._listen)

    def _listen(self, socket: WebSocket) -> None:
        socket.on("framereceived", self._count)

    def _count(self, payload: str | bytes) -> None:
        self.bytes += len(payload if isinstance(payload, bytes) else payload.encode())


@click.command(context_settings={"show_default": True})
@click.option("--tokens", default=1024, help="Length of the prompt.")
@click.option("--repeats", default=5, help="How often each interaction is done.")
@click.option("--out", type=click.Path(dir_okay=False), help="Write the numbers as JSON.")
def main(tokens: int, repeats: int, out: str | None) -> None:
    prompt, tokens = long_prompt(tokens)
    expect.set_options(timeout=PATIENCE_MS)
    with (
        tempfile.TemporaryDirectory() as folder,
        serve_streamlit(ROOT / "app.py", log=Path(folder) / "log") as address,
        open_browser() as browser,
    ):
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        rows = measure(page, Traffic(page), address, prompt, tokens, repeats)
    click.echo(f"\n{tokens} tokens, median (largest) of {repeats}\n")
    click.echo("| interaction | seconds | kB received |\n|---|---|---|")
    for name, found in rows.items():
        seconds, sent = [s for s, _ in found], [b / 1000 for _, b in found]
        click.echo(
            f"| {name} | {statistics.median(seconds):.2f} ({max(seconds):.2f}) | "
            f"{statistics.median(sent):.0f} ({max(sent):.0f}) |"
        )
    if out:
        Path(out).write_text(json.dumps({"tokens": tokens, "rows": rows}, indent=1))


def long_prompt(tokens: int) -> tuple[str, int]:
    """A text of about this many tokens, and how many it has."""
    model = load_model("demo/dcformer")
    ids = model.to_tokens("< Mary has an apple. John has a violin. Paul has a bus. >. Who has violin? John. " * 80)
    prompt = str(model.to_string(ids[0, :tokens]))
    return prompt, len(model.to_str_tokens(prompt))


def measure(
    page: Page, traffic: Traffic, address: str, prompt: str, tokens: int, repeats: int
) -> dict[str, list[tuple[float, int]]]:
    page.goto(address)
    page.get_by_test_id("token-strip").wait_for()
    idle(page)

    def timed(act: Callable[[], None], shown: Callable[[], None]) -> tuple[float, int]:
        before, started = traffic.bytes, time.perf_counter()
        act()
        shown()
        idle(page)
        return time.perf_counter() - started, traffic.bytes - before

    def type_prompt() -> None:
        box = page.get_by_label("Prompt", exact=True)
        box.fill(prompt)
        box.press("Control+Enter")

    chips = page.get_by_test_id("token-strip").locator("button")
    rows = {"new prompt (the model runs)": [timed(type_prompt, lambda: expect(chips).to_have_count(tokens))]}
    for name, step in {"another cell": cell, "another head": head, "scores / pattern": kind}.items():
        rows[name] = [timed(*step(page, number)) for number in range(repeats)]
    return rows


def cell(page: Page, number: int) -> tuple[Callable[[], None], Callable[[], None]]:
    canvas = page.get_by_test_id("map-viewer").nth(1).get_by_test_id("map-canvas").nth(1)
    box = canvas.bounding_box() or {"width": 1.0, "height": 1.0}
    place: Position = {"x": box["width"] * (0.1 + 0.05 * number), "y": box["height"] * 0.7}
    old = heading(page, "at query")
    return lambda: canvas.click(position=place), lambda: changed(page, "at query", old)


def head(page: Page, number: int) -> tuple[Callable[[], None], Callable[[], None]]:
    canvas = page.get_by_test_id("map-viewer").first.get_by_test_id("map-canvas").first
    box = canvas.bounding_box() or {"width": 1.0, "height": 1.0}
    place: Position = {"x": box["width"] * (number % 8 + 0.5) / 8, "y": box["height"] * (0.125 + 0.25 * (number % 4))}
    old = heading(page, "before and after")
    return lambda: canvas.click(position=place), lambda: changed(page, "before and after", old)


def kind(page: Page, number: int) -> tuple[Callable[[], None], Callable[[], None]]:
    wanted = "scores" if number % 2 == 0 else "pattern"
    old = heading(page, "at query")
    return lambda: page.get_by_text(wanted, exact=True).click(), lambda: changed(page, "at query", old)


def heading(page: Page, part: str) -> str:
    return page.locator("h5", has_text=part).first.inner_text()


# expect() looks again only after 100, 250, 500 ... ms; wait_for_function looks at every frame


def changed(page: Page, part: str, old: str) -> None:
    page.wait_for_function(
        "([part, old]) => [...document.querySelectorAll('h5')].some(h => h.innerText.includes(part)"
        " && h.innerText.trim() !== old.trim())",
        arg=[part, old],
        timeout=PATIENCE_MS,
    )


def idle(page: Page) -> None:
    """Wait until the page's script has ended."""
    page.wait_for_function(
        "document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'", timeout=PATIENCE_MS
    )


if __name__ == "__main__":
    main()
