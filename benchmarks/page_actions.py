"""What a person does on the Explore page, for benchmarks: an action, and the moment its answer stands."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import psutil
from playwright.sync_api import Browser, Locator, Page, Position, expect

PATIENCE_MS = 300_000
VIEWPORT = {"width": 1280, "height": 1000}

Step = tuple[Callable[[], None], Callable[[], None]]
"""Do it; wait until its answer stands."""


# counted in the page: handed to this process one by one, frames would keep the cores busy that the app is timed on
COUNT_FRAMES = """
window.receivedBytes = 0;
const Unwatched = WebSocket;
window.WebSocket = class extends Unwatched {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", ({ data }) => {
      window.receivedBytes += data.byteLength ?? data.size ?? data.length;
    });
  }
};
"""


def received(page: Page) -> int:
    """Bytes of the WebSocket frames that a page of session() has received since it was opened."""
    return int(page.evaluate("window.receivedBytes ?? 0"))


@dataclass(frozen=True)
class Taken:
    """Seconds of one interaction, kB received, and the seconds that its maps alone take the library."""

    seconds: float
    kilobytes: float
    own: float = 0.0


def timed(page: Page, step: Step) -> Taken:
    """From the action until its answer is drawn and the page's script has ended."""
    before, started = received(page), time.perf_counter()
    act, shown = step
    act()
    shown()
    idle(page)
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    seconds = time.perf_counter() - started
    return Taken(seconds, (received(page) - before) / 1000)


@contextmanager
def session(browser: Browser) -> Iterator[Page]:
    """A page of a browser context of its own: to the server, another person."""
    context = browser.new_context(viewport=VIEWPORT)  # type: ignore[arg-type]
    context.add_init_script(COUNT_FRAMES)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    yield page
    context.close()


# -- steps -------------------------------------------------------------------------------------------

# clicks with force: else two frames pass before each, in which the driver sees whether its target stands still


def opening(page: Page, address: str) -> Step:
    return lambda: _ignore(page.goto(address, wait_until="commit")), lambda: first_maps(page)


def typing(page: Page, prompt: str, tokens: int) -> Step:
    def type_prompt() -> None:
        box = page.get_by_label("Prompt", exact=True)
        box.fill(prompt)
        box.press("Control+Enter")

    chips = page.get_by_test_id("token-strip").locator("button")
    return type_prompt, lambda: expect(chips).to_have_count(tokens, timeout=PATIENCE_MS)


def cell(page: Page, number: int) -> Step:
    canvas = _canvas(page, viewer=1, panel=1)
    place = _inside(canvas, 0.1 + 0.05 * (number % 8), 0.7 + 0.02 * (number // 8 % 10))
    old = heading(page, "at query")
    return lambda: canvas.click(position=place, force=True), lambda: changed(page, "at query", old)


def head(page: Page, number: int, layers: int, heads: int) -> Step:
    """The next head of the same layer."""
    at_layer, at_head = chosen(page)
    return _overview(page, at_layer, (at_head + 1) % heads, layers, heads)


def layer(page: Page, number: int, layers: int, heads: int) -> Step:
    """The same head of the next layer."""
    at_layer, at_head = chosen(page)
    return _overview(page, (at_layer + 1) % layers, at_head, layers, heads)


def kind(page: Page, number: int) -> Step:
    wanted = "scores" if "M_post" in heading(page, "at query") else "pattern"
    old = heading(page, "at query")
    return lambda: page.get_by_text(wanted, exact=True).click(force=True), lambda: changed(page, "at query", old)


def _overview(page: Page, at_layer: int, at_head: int, layers: int, heads: int) -> Step:
    canvas = _canvas(page, viewer=0, panel=0)
    place = _inside(canvas, (at_head + 0.5) / heads, (at_layer + 0.5) / layers)
    old = heading(page, "before and after")
    return lambda: canvas.click(position=place, force=True), lambda: changed(page, "before and after", old)


def _canvas(page: Page, viewer: int, panel: int) -> Locator:
    return page.get_by_test_id("map-viewer").nth(viewer).get_by_test_id("map-canvas").nth(panel)


def _inside(canvas: Locator, across: float, down: float) -> Position:
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box() or {"width": 1.0, "height": 1.0}
    return {"x": box["width"] * across, "y": box["height"] * down}


def _ignore(answer: object) -> None:
    """A step gives nothing."""


# -- what the page says ------------------------------------------------------------------------------


def link(address: str, model: str) -> str:
    return f"{address}/?model={quote(model)}"


def chosen(page: Page) -> tuple[int, int]:
    """The layer and head that are shown."""
    found = re.search(r"Layer (\d+), head (\d+)", heading(page, "before and after"))
    assert found is not None
    return int(found[1]), int(found[2])


def heading(page: Page, part: str) -> str:
    return page.locator("h5", has_text=part).first.text_content() or ""


def first_maps(page: Page) -> None:
    """Wait until the three maps of a head stand."""
    maps = page.locator("[data-testid=map-viewer][data-state=ready]")
    expect(maps.nth(1).get_by_test_id("map-canvas")).to_have_count(3, timeout=PATIENCE_MS)


# expect() looks again only after 100, 250, 500 ... ms; wait_for_function looks at every frame. textContent, because
# innerText lays the page out each time


def changed(page: Page, part: str, old: str) -> None:
    page.wait_for_function(
        "([part, old]) => [...document.querySelectorAll('h5')].some(h => h.textContent.includes(part)"
        " && h.textContent.trim() !== old.trim())",
        arg=[part, old],
        timeout=PATIENCE_MS,
    )


def idle(page: Page) -> None:
    """Wait until the page's script has ended."""
    page.wait_for_function(
        "document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'", timeout=PATIENCE_MS
    )


def server_memory() -> float:
    """MB that the Streamlit server which this process started holds in memory."""
    servers = [one for one in psutil.Process().children() if "streamlit" in one.cmdline()]
    return servers[0].memory_info().rss / 1e6


def browser_heap(page: Page) -> float:
    """MB that the page's JavaScript objects take after a collection of garbage."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("HeapProfiler.enable")
    devtools.send("HeapProfiler.collectGarbage")
    used = devtools.send("Runtime.getHeapUsage")["usedSize"]
    devtools.detach()
    return used / 1e6
