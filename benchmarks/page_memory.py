"""Memory of the server and the browser: many sessions at once, and one that goes on for long."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from playwright.sync_api import Browser

from benchmarks import page_actions as do
from workbench.running_models import CAPTURE_BYTES
from workbench.session import MAP_BYTES

SESSION_MB = 200
FLAT_MB = 10
"""What may be added from the middle to the end of a long session: the noise of an allocator."""

Prompt = tuple[str, int]


@dataclass(frozen=True)
class MemoryReading:
    """MB that the server and the page's JavaScript hold at a moment; verdict: a target and whether it is met."""

    model: str
    when: str
    server: float
    browser: float | None = None
    verdict: str = ""


def sessions(browser: Browser, address: str, model: str, name: str, prompts: list[Prompt]) -> list[MemoryReading]:
    """Open a session for every prompt, then close them all.

    Captures and maps lie in caches that all sessions share; the target is for what a session adds to a full cache, so
    with captures that do not fill it the growth named here is too large, never too small.
    """
    readings = []
    with ExitStack() as open_sessions:
        for number, (prompt, tokens) in enumerate(prompts, 1):
            page = open_sessions.enter_context(do.session(browser))
            do.timed(page, do.opening(page, do.link(address, name)))
            do.timed(page, do.typing(page, prompt, tokens))
            readings.append(MemoryReading(model, f"{number} sessions, each on another prompt", do.server_memory()))
    growth = (readings[-1].server - readings[0].server) / max(len(readings) - 1, 1)
    verdict = f"{growth:.0f} MB a session, {SESSION_MB} {'met' if growth <= SESSION_MB else 'missed'}"
    shared = (CAPTURE_BYTES + MAP_BYTES) / 1e6
    return [
        *readings,
        MemoryReading(
            model, "after closing them", do.server_memory(), verdict=f"{verdict} (caches: up to {shared:.0f} MB)"
        ),
    ]


def endurance(
    browser: Browser, address: str, model: str, prompt: Prompt, interactions: int, shape: tuple[int, int]
) -> list[MemoryReading]:
    """Memory after every tenth of many interactions of one session."""
    every, readings = max(1, interactions // 10), []
    with do.session(browser) as page:
        do.timed(page, do.opening(page, do.link(address, model)))
        do.timed(page, do.typing(page, *prompt))
        steps: list[Callable[[int], do.Step]] = [
            lambda number: do.cell(page, number),
            lambda number: do.head(page, number, *shape),
            lambda number: do.kind(page, number),
            lambda number: do.layer(page, number, *shape),
        ]
        for number in range(1, interactions + 1):
            do.timed(page, steps[number % len(steps)](number // len(steps)))
            if number % every == 0:
                when = f"{number} interactions"
                readings.append(MemoryReading(model, when, do.server_memory(), do.browser_heap(page)))
    return [*readings, _flat(model, readings)]


def _flat(model: str, readings: list[MemoryReading]) -> MemoryReading:
    """What was added from the middle to the end."""
    middle, last = readings[len(readings) // 2 - 1], readings[-1]
    server, browser = last.server - middle.server, (last.browser or 0) - (middle.browser or 0)
    met = "met" if max(server, browser) <= FLAT_MB else "missed"
    return MemoryReading(model, "growth over the second half", server, browser, f"{FLAT_MB} {met}")
