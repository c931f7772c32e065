"""Thousands of cases of a component, in processes of their own that may crash, hang or run out of memory."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzzing.component import Case, Component
from tests.fuzzing.judge import Fault, judged

BATCH = 500
"""Cases of one process."""
HANG_S = 60.0
"""After so long without a case's end the process is killed: longer than any machine is busy."""
ADDRESS_SPACE = 3 * 2**30
"""What a process may map beyond what it had when it began, in bytes."""
FORK = multiprocessing.get_context("fork")


@dataclass
class Tally:
    """What came of some cases. faults: place -> what was said and the first case that gave it."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    memory: int = 0
    faults: dict[str, str] = field(default_factory=dict)
    harmed: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        self.cases += other.cases
        self.outcomes += other.outcomes
        self.slowest = max(self.slowest, other.slowest)
        self.memory = max(self.memory, other.memory)
        self.faults = other.faults | self.faults
        self.harmed = other.harmed | self.harmed

    def line(self, name: str) -> str:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.outcomes.most_common())
        return (
            f"{name}: {self.cases:,} cases; {kinds}; slowest {self.slowest[0]:.2f} s ({self.slowest[1]}); "
            f"peak memory +{self.memory / 2**20:.0f} MiB; faults {len(self.faults)}"
        )


def run(component: Component, cases: int, start: int, deadline: float | None = None) -> Tally:
    """So many cases, a batch in each process. start: the seed. deadline: time.monotonic() after which none is begun."""
    torch.set_num_threads(1)  # a pool of threads does not survive the division of a process
    total = Tally()
    _ = component.valid  # once, before the processes divide
    number = 0
    while total.cases < cases and (deadline is None or time.monotonic() < deadline):
        total.add(_in_a_process(component, min(BATCH, cases - total.cases), start * 1_000_003 + number))
        number += 1
    return total


def _in_a_process(component: Component, cases: int, number: int) -> Tally:
    here, there = FORK.Pipe(duplex=False)
    done = FORK.Value(ctypes.c_long, 0, lock=False)
    told = FORK.Array(ctypes.c_char, 4096, lock=False)
    process = FORK.Process(target=_child, args=(component, cases, number, there, done, told))
    process.start()
    there.close()
    seen, since = -1, time.monotonic()
    while not here.poll(0.5):
        if done.value != seen:
            seen, since = done.value, time.monotonic()
        elif time.monotonic() - since > HANG_S:
            os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
            process.join()
            return _lost(f"hang of more than {HANG_S:.0f} s", done.value, told.value)
    try:
        tally = here.recv()
    except EOFError:
        process.join()
        return _lost(f"the process died ({_cause(process.exitcode)})", done.value, told.value)
    process.join()
    if isinstance(tally, str):
        raise RuntimeError(f"The fuzzing itself failed:\n{tally}")
    return tally


def _cause(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _lost(what: str, done: int, case: bytes) -> Tally:
    return Tally(done + 1, Counter({"crash": 1}), faults={what: case.decode(errors="replace")})


def _child(component: Component, cases: int, number: int, pipe: Any, done: Any, told: Any) -> None:
    """Run in the process: its tally, or what went wrong with the fuzzing itself, goes into the pipe."""
    try:
        pipe.send(_tallied(component, cases, number, done, told))
    except Exception:
        pipe.send(traceback.format_exc())
    pipe.close()


def _tallied(component: Component, cases: int, number: int, done: Any, told: Any) -> Tally:
    nowhere = os.open(os.devnull, os.O_WRONLY)  # libraries in C and Rust write past Python's own streams
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    gc.collect()
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as folder:
        for name, files in component.valid.items():
            valid = judged(component, Case(files, f"{name}: valid"), Path(folder))  # loads what is loaded but once
            assert valid.kind == "read", f"{component.name} refuses its own {name}: {valid.kind}"
        _limit_address_space()
        tally = Tally()

        def one(case: Case) -> None:
            told.value = repr(case).encode(errors="backslashreplace")[:4095]
            try:
                outcome = judged(component, case, Path(folder))
            except Fault as fault:
                tally.outcomes["FAULT"] += 1
                tally.faults.setdefault(fault.place, f"{fault}\n{case!r}\n{_where(fault)}")
                tally.harmed.setdefault(fault.place, case.files)
            else:
                tally.outcomes[outcome.kind] += 1
                tally.slowest = max(tally.slowest, (outcome.seconds, case.told))
                tally.memory = max(tally.memory, outcome.memory)
            tally.cases += 1
            done.value += 1

        explore(component, one, cases, number)
        return tally


def explore(component: Component, one: Any, cases: int, number: int | None) -> None:
    """Hypothesis draws cases and calls `one` with each. number: the seed; None = the same cases each time."""
    options = {
        "max_examples": cases, "deadline": None, "database": None, "derandomize": number is None,
        "suppress_health_check": list(HealthCheck), "phases": (Phase.generate, Phase.shrink),
    }  # fmt: skip
    test = settings(**options)(given(component.cases())(one))
    (test if number is None else seed(number)(test))()


def _where(fault: Fault) -> str:
    if fault.__cause__ is None:
        return ""
    return "".join(traceback.format_exception(fault.__cause__)[-6:])


def _limit_address_space() -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        return  # where there is no such file, what was really used is measured all the same
    size = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (size * 1024 + ADDRESS_SPACE,) * 2)


def _fast_folder() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
