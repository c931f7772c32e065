"""The stops of docs/tour.md in a real browser; `python -m tests.tour` makes its pictures again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import click
from playwright.sync_api import Page, expect

from tests.browser_tools import ROOT, open_browser, serve_streamlit

PICTURES = ROOT / "docs" / "images" / "tour"
PATIENCE = 120_000  # ms
WINDOW = {"width": 1280, "height": 860}
PROMPT = "< Mary has an apple. John has a violin. Paul has a bus. >. Who has violin?"
UNCOMPOSED = '[{"mode": "identity"}]'
ONE_BRANCH = '[{"mode": "zero", "branches": ["query_lowrank"], "sites": ["post"]}]'


@dataclass(frozen=True)
class Stop:
    """One picture.

    Attributes:
        name: of the picture. page, state: its URL. top: heading that is scrolled to the top; "" = the page's top.
        shows: texts that must stand on the page.
    """

    name: str
    page: str = ""
    state: dict[str, str] = field(default_factory=dict)
    top: str = ""
    shows: tuple[str, ...] = ()

    @property
    def link(self) -> str:
        """The URL without the server."""
        return f"/{self.page}" + (f"?{urlencode(self.state)}" if self.state else "")


STOPS = [
    Stop("explore", shows=("Which heads are mixed?", "21 of 1024 tokens")),
    Stop("maps", state={"at": "3.6.20.11"}, top="Layer 3, head 6", shows=("before and after mixing", "All heads of")),
    Stop("pair", state={"at": "3.6.20.11"}, top="What head 6 is made of", shows=("M_post at query 20 and key 11",)),
    Stop("row", state={"at": "3.6.20.11", "look": "whole row"}, top="What head 6 is made of",
         shows=("keys on the row", "sums − composed")),
    Stop("compare", "compare", shows=("Two runs, side by side", "mean KL(A ‖ B)")),
    Stop("intervene", "intervene", {"change": ONE_BRANCH}, shows=("loss, changed", "Which predictions changed?")),
    Stop("virtual_heads", "virtual_heads", shows=("What each virtual head adds to", "sum over all layers")),
    Stop("heads", "heads", {"show": "first_token", "across": "first_token", "up": "row_sum"},
         shows=("All heads, raw and composed", "Click a point to see its head")),
    Stop("probes", "probes", {"study": "task_roles"}, shows=("What was found",)),
    Stop("full_model", "full-model", shows=("Load a full model",)),
    Stop("tasks", "tasks", {"run": "yes"}, shows=("How well models answer the in-context", "Do the models differ?")),
]  # fmt: skip


def visit(page: Page, address: str, stop: Stop) -> bytes:
    """Go to a stop, wait until it is drawn, and take its picture.

    Raises:
        AssertionError: a text is missing, or the page shows an exception.
    """
    page.goto(address + stop.link)
    settled(page)
    for text in stop.shows:
        expect(page.get_by_text(text).first).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    if stop.top:
        heading = page.get_by_role("heading", name=stop.top).first
        heading.evaluate("element => element.scrollIntoView({block: 'start'})")
    settled(page)  # maps may have come since
    return page.screenshot()


def settled(page: Page) -> None:
    """Wait until the page has answered and what it draws is there."""
    page.get_by_test_id("stMainBlockContainer").wait_for(timeout=PATIENCE)
    time.sleep(1.5)
    for waiting in ("stStatusWidget", "stSpinner", "stSkeleton"):
        expect(page.get_by_test_id(waiting)).to_have_count(0, timeout=PATIENCE)
    expect(page.locator('.map-viewer[data-state="loading"]')).to_have_count(0, timeout=PATIENCE)
    time.sleep(0.5)


@click.command()
@click.option("--theme", type=click.Choice(["light", "dark"]), default="light")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=PICTURES)
def main(theme: str, out: Path) -> None:
    """Take the pictures of the tour."""
    out.mkdir(parents=True, exist_ok=True)
    environment = {"STREAMLIT_THEME_BASE": theme}
    server = serve_streamlit(ROOT / "app.py", log=out / "app.log", environment=environment)
    with server as address, open_browser() as browser:
        page = browser.new_page(viewport=WINDOW)  # type: ignore[arg-type]
        for stop in STOPS:
            (out / f"{stop.name}.png").write_bytes(visit(page, address, stop))
            click.echo(stop.name)
    (out / "app.log").unlink()


if __name__ == "__main__":
    main()
