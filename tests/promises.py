"""What the workbench promises when things go wrong, and the tests that hold each promise.

`python -m tests.reliability` runs them and prints the tables of docs/reliability.md.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """A sentence and the test files that hold it, names without `test_` and `.py`; only: pytest's -k."""

    says: str
    tests: tuple[str, ...]
    only: str = ""

    @property
    def arguments(self) -> list[str]:
        """Of pytest."""
        chosen = ["-k", self.only] if self.only else []
        return [*(f"tests/test_{name}.py" for name in self.tests), *chosen]


PROMISES: dict[str, list[Promise]] = {
    "Strange files": [
        Promise("Every reader reads a file or refuses it in one sentence (the bounded cases).", ("fuzzing",)),
        Promise("A pickle that would run code is refused and does not run.", ("checkpoint_refusals",)),
    ],
    "Faults": [
        Promise("A training run that is killed goes on to the same bits.", ("training_resume",)),
        Promise("A harvest that is killed, or loses a rank, goes on to the same bytes.", ("harvest_resume",)),
        Promise(
            "A study that is killed, or loses a worker, goes on to the same tables.",
            ("studies",),
            "killed or worker",
        ),
        Promise(
            "A write that fails (every single one in turn), a full disk, a read-only one: said in a sentence; what was "
            "finished stays whole; the work goes on to the same result.",
            ("full_disks",),
        ),
        Promise(
            "Two processes that write the same folder: one is refused, or one whole model stands at every moment; the "
            "lock of a killed one is free; too little memory is said and leaves nothing half-written.",
            ("two_processes",),
        ),
        Promise(
            "A clock that jumps changes no bit; a file that vanishes is named.",
            ("clocks_and_vanished_files",),
        ),
    ],
    "Models and prompts": [
        Promise(
            "One head, one layer, seven heads, tied embeddings, a context of 1, a vocabulary larger than the "
            "tokenizer's: right on every way in. Weights that are not finite never become numbers.",
            ("strange_models",),
        ),
        Promise(
            "Empty, megabyte-long, right-to-left, control characters, markup, special tokens: shown as text or "
            "refused in a sentence on every page, in every file, report, link and command.",
            ("strange_prompts",),
        ),
    ],
    "Numbers": [
        Promise(
            "Branches sum to the matrix, virtual heads to the attention output, the identity gives the plain twin, "
            "logits are those of plain loops, the same seed gives the same bits: on drawn configurations, in float64.",
            ("invariants",),
        ),
    ],
    "A shared machine": [
        Promise("Who may come in: loopback, passwords, sessions, other sites, limits.", ("gate", "serving")),
        Promise("What may be opened: the offered folders alone; the hub when allowed.", ("access",)),
        Promise("Nothing goes out: the network is watched through all pages.", ("network",)),
        Promise("An unforeseen error shows a reference, and no path or secret.", ("errors_shown",)),
        Promise("What it is built from is pinned, bounded and licensed.", ("dependencies",)),
    ],
    "Many people at once": [
        Promise("Five people, each on another prompt, get their own answers.", ("many_sessions",)),
        Promise(
            "A fair queue; a session that closes mid-run, a worker that raises, a sweep that is cancelled: the next "
            "request works. A closed tab frees what it held.",
            ("turns", "jobs", "closed_tabs"),
        ),
        Promise("A URL that reaches the server late undoes nothing that was done since.", ("slow_address",)),
    ],
}
