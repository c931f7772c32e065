"""Many people on the Explore page at once: python -m benchmarks.load --sessions 20 --minutes 10

Real Chromium, one context (cookies, storage, connection) a person, on the app as `python -m workbench app` serves it.
Everyone goes through prompts of their own on the bundled pair, in turns a new prompt and a click on a token. What the
page then shows is compared with the library, which this process asks itself. A time runs from the key or click until
the numbers stand on the page.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click
import numpy as np
import psutil
from playwright.async_api import Browser, Page, async_playwright
from playwright.async_api import Error as BrowserError

from model import Capture, capture, load_model
from tests.browser_tools import CHROMIUM_ARGUMENTS, find_chromium
from tests.served import serve_workbench
from workbench.viewer.view import visible_token

ARRIVE_AT_ONCE = 3
SETTLED_S = 120.0
"""What a page shows so long after its tokens are there is its answer."""
SAMPLE_S = 5.0
MODELS = ("demo/dcformer", "demo/dcformer", "demo/transformer")
NAMES = (
    "Mary John Paul Rose Alice James Nancy Keith Tom Anna Peter Laura Kevin Susan Brian Helen Frank Grace Henry Julia"
)
THINGS = (
    "apple violin bus wolf train lemon sword bee piano tiger banana truck hammer drum horse grape guitar car fox saw"
)


@dataclass(frozen=True)
class How:
    """How each person goes about it; see the options."""

    prompts: int
    pause: float
    patience_s: float
    pictures: Path | None


@dataclass
class Found:
    """What all people found. seconds: by kind of interaction. wrong: what was shown instead. memory: (s, MiB)."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"new prompt": [], "click on a token": []})
    wrong: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)
    first_round: list[float] = field(default_factory=list)


@click.command(context_settings={"show_default": True})
@click.option("--sessions", default=20, help="People at once.")
@click.option("--minutes", default=10.0, help="How long, after everyone has the page.")
@click.option("--prompts", default=12, type=click.IntRange(2, 20), help="Prompts of each person, again and again.")
@click.option("--pause", default=2.0, help="Seconds that a person looks at an answer, at most.")
@click.option("--patience", default=600.0, help="Seconds after which an answer counts as missing.")
@click.option("--pictures", type=click.Path(file_okay=False, path_type=Path), help="Folder for pictures of failures.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the numbers as JSON.")
def main(
    sessions: int, minutes: float, prompts: int, pause: float, patience: float, pictures: Path | None, out: Path | None
) -> None:
    how = How(prompts, pause, patience, pictures)
    with tempfile.TemporaryDirectory() as folder, serve_workbench(Path(folder) / "log") as served:
        found = asyncio.run(everyone(served.address, served.process.pid, sessions, minutes, how))
        log = served.output()
    for sign in ("Traceback", "Uncaught", "Reference "):
        found.errors[f"{sign.strip()} in the log"] += log.count(sign)
    numbers = told(found, sessions)
    click.echo(f"\n{sessions} sessions, {minutes:g} minutes, {prompts} prompts each\n\n| measure | value |\n|---|---|")
    for name, value in numbers.items():
        click.echo(f"| {name} | {value} |")
    for line in found.wrong[:10]:
        click.echo(f"wrong: {line}")
    if out:
        out.write_text(json.dumps({"numbers": numbers, "seconds": found.seconds, "memory": found.memory}, indent=1))
    raise SystemExit(bool(found.wrong) or bool(sum(found.errors.values())))


async def everyone(address: str, pid: int, sessions: int, minutes: float, how: How) -> Found:
    truth = Truth()
    found = Found()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_ARGUMENTS)
        people = [Person(number, address, how, truth, found) for number in range(sessions)]
        door = asyncio.Semaphore(ARRIVE_AT_ONCE)

        async def arrive(person: Person) -> None:
            async with door:
                await person.arrive(browser)

        await asyncio.gather(*map(arrive, people))
        start = time.monotonic()
        watching = asyncio.create_task(watch_memory(pid, start, found))
        await asyncio.gather(*(person.explore(start, start + 60 * minutes) for person in people))
        watching.cancel()
        await browser.close()
    return found


async def watch_memory(pid: int, start: float, found: Found) -> None:
    server = psutil.Process(pid)
    while True:
        found.memory.append((time.monotonic() - start, server.memory_info().rss / 2**20))
        await asyncio.sleep(SAMPLE_S)


class Truth:
    """The library's answers, each computed once and kept."""

    def __init__(self) -> None:
        self._models = {name: load_model(name) for name in set(MODELS)}
        self._runs: dict[tuple[str, str], Capture] = {}

    def run(self, model: str, prompt: str) -> Capture:
        if (model, prompt) not in self._runs:
            self._runs[model, prompt] = capture(self._models[model], prompt)
        return self._runs[model, prompt]

    def numbers(self, model: str, prompt: str, layer: int, head: int, query: int, key: int) -> list[float]:
        """Raw and composed pattern of a pair of tokens, and the sum of the composed row."""
        run = self.run(model, prompt)
        raw, composed = (float(run.pattern(layer, stage, heads=head, queries=query, keys=key)) for stage in
                         ("raw", "composed"))  # fmt: skip
        return [raw, composed, float(run.pattern(layer, heads=head, queries=query).sum())]


class Person:
    """One browser context that explores its own prompts."""

    def __init__(self, number: int, address: str, how: How, truth: Truth, found: Found):
        self.number, self.address, self.how, self.truth, self.found = number, address, how, truth, found
        self.model = MODELS[number % len(MODELS)]
        self.random = random.Random(number)
        names, things = NAMES.split(), THINGS.split()
        # no two people share a prompt: the first name is the person, the first thing the round
        self.prompts = [
            f"< {names[number % 20]} has a {things[at]}. {names[(number + at + 3) % 20]} has a {things[at - 7]}. >. "
            f"Who has {things[self.random.choice((at, at - 7))]}?{' No' * (number // 20)}"
            for at in range(how.prompts)
        ]

    async def arrive(self, browser: Browser) -> None:
        context = await browser.new_context(viewport={"width": 1000, "height": 600}, reduced_motion="reduce")
        self.page: Page = await context.new_page()
        self.page.set_default_timeout(1000 * self.how.patience_s)
        self.page.on("pageerror", lambda error: self.found.errors.update([f"script: {error}"[:80]]))
        await self.page.goto(f"{self.address}/?{urlencode({'model': self.model, 'prompt': self.prompts[-1]})}")
        await self._shows(self.prompts[-1])

    async def explore(self, start: float, until: float) -> None:
        step = 0
        while time.monotonic() < until:
            prompt = self.prompts[step % len(self.prompts)]
            try:
                await self._step(prompt)
            except BrowserError as error:
                self.found.errors[f"no answer: {str(error).splitlines()[0]}"[:80]] += 1
                await self._picture(f"missing {step}")
            step += 1
            if step == len(self.prompts):
                self.found.first_round.append(time.monotonic() - start)
            await asyncio.sleep(self.random.uniform(0, self.how.pause))

    async def _step(self, prompt: str) -> None:
        box = self.page.get_by_label("Prompt", exact=True)
        await box.fill(prompt)
        began = time.monotonic()
        await box.press("Control+Enter")
        await self._shows(prompt)
        await self._right("new prompt", prompt, began)
        query = self.random.randrange(len(self.truth.run(self.model, prompt)))
        began = time.monotonic()
        await self.page.get_by_test_id("token-strip").locator("button").nth(query).click()
        heading = self.page.get_by_text(f"at query {query} and key")

        async def there() -> bool:
            return await heading.count() > 0

        await self._until(there, f"query {query}")
        await self._right("click on a token", prompt, began)

    async def _shows(self, prompt: str) -> None:
        tokens = [visible_token(token) for token in self.truth.run(self.model, prompt).str_tokens]

        async def there() -> bool:
            return await self.page.get_by_test_id("token-strip").locator("button").all_text_contents() == tokens

        await self._until(there, prompt)

    async def _until(self, there: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait until the page shows something and has done its work."""
        # not wait_for_function, which evaluates text inside the page: the server's policy forbids that
        until = time.monotonic() + self.how.patience_s
        while await self.page.get_by_test_id("stStatusWidget").count() or not await there():
            if time.monotonic() > until:
                raise BrowserError(f"the page did not come to show {what[:40]!r}")
            await asyncio.sleep(0.1)

    async def _right(self, kind: str, prompt: str, began: float) -> None:
        """Count the time if the numbers are the library's; they may still be on their way for a moment."""
        until = time.monotonic() + SETTLED_S
        while time.monotonic() < until:
            seconds = time.monotonic() - began
            shown, wanted = await self._numbers(prompt)
            if shown and np.allclose(shown, wanted, atol=6e-4):  # three and four decimals are written
                self.found.seconds[kind].append(seconds)
                break
            await asyncio.sleep(0.1)
        else:
            self.found.wrong.append(f"session {self.number}, {self.model}, {prompt!r}: {shown}, not {wanted}")
            await self._picture(f"wrong {len(self.found.wrong)}")
        for sign in ("stException", "stAlert"):
            self.found.errors[sign] += await self.page.get_by_test_id(sign).filter(has_text="reference").count()

    async def _picture(self, what: str) -> None:
        if self.how.pictures is not None:
            self.how.pictures.mkdir(parents=True, exist_ok=True)
            place = self.how.pictures / f"session {self.number} {what}"
            await self.page.screenshot(path=f"{place}.png", full_page=True)
            Path(f"{place}.txt").write_text(await self.page.locator("body").inner_text(), encoding="utf-8")

    async def _numbers(self, prompt: str) -> tuple[list[float], list[float]]:
        text: str = await self.page.locator("body").inner_text()
        head = re.search(r"Layer (\d+), head (\d+): before", text)
        pair = re.search(r"M_post at query (\d+) and key (\d+)", text)
        values: list[Any] = await self.page.get_by_test_id("stMetricValue").all_inner_texts()
        if head is None or pair is None or len(values) < 3:
            return [], []
        layer, at, query, key = (int(one) for one in (*head.groups(), *pair.groups()))
        if max(query, key) >= len(self.truth.run(self.model, prompt)):
            return [], []  # the page is half new: this still stands from the last prompt
        shown = [float(value) for value in values[:3]]
        return shown, self.truth.numbers(self.model, prompt, layer, at, query, key)


def told(found: Found, sessions: int) -> dict[str, str]:
    """The rows of the table. The warm-up ends when all sessions have been through their prompts once."""
    rows = {}
    for kind, seconds in found.seconds.items():
        shares = np.percentile(seconds, [50, 90, 99, 100]) if seconds else [np.nan] * 4
        rows[f"{kind}, answers"] = str(len(seconds))
        rows[f"{kind}, seconds p50 / p90 / p99 / most"] = " / ".join(f"{share:.2f}" for share in shares)
    rows["wrong or crossed answers"] = str(len(found.wrong))
    rows["unhandled errors"] = str(sum(found.errors.values())) + "".join(
        f"; {name}: {count}" for name, count in found.errors.items() if count
    )
    done = len(found.first_round)
    warm = max(found.first_round) if done == sessions else np.inf
    after = np.array([(at, mib) for at, mib in found.memory if at >= warm])
    taken = [found.memory[0][1], after[0, 1] if len(after) else np.nan, found.memory[-1][1]]
    rows["memory at start / after warm-up / at the end, MiB"] = " / ".join(
        "not reached" if np.isnan(mib) else f"{mib:.0f}" for mib in taken
    )
    rows["warm-up: everyone has seen every prompt of theirs, s"] = (
        f"{warm:.0f}" if done == sessions else f"not ended: {done} of {sessions} sessions have"
    )
    if len(after) > 2:
        rows["growth after it, MiB a minute"] = f"{60 * np.polyfit(after[:, 0], after[:, 1], 1)[0]:+.2f}"
    return rows


if __name__ == "__main__":
    main()
