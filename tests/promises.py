"""What the workbench promises when things go wrong, and the command that holds it to each promise.

`python -m tests.reliability` runs them and prints the tables of docs/reliability.md, `python -m tests.soak` runs them
for hours.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """A sentence, and the command that tries to break it."""

    says: str
    command: str

    @property
    def arguments(self) -> list[str]:
        """Of Python."""
        return shlex.split(self.command)[1:]

    @property
    def is_tests(self) -> bool:
        return self.arguments[:2] == ["-m", "pytest"]


def _tests(*names: str) -> str:
    return "python -m pytest -q " + " ".join(f"tests/test_{name}.py" for name in names)


PROMISES = {
    "Strange files": [
        Promise(
            "A malicious pickle in a `.bin` is refused, and its payload does not run.",
            _tests("checkpoint_refusals"),
        ),
        Promise(
            "A bounded number of damaged files, the same each time, for every reader above.",
            _tests("fuzzing"),
        ),
    ],
    "Faults": [
        Promise(
            "A harvest that is killed at any moment goes on to the same bytes.",
            "python -m tests.kill_harvest --kills 20",
        ),
        Promise(
            "So does one of two processes, both killed.",
            "python -m tests.kill_harvest --kills 20 --ranks 2",
        ),
        Promise(
            "So does a study.",
            "python -m tests.kill_study --kills 20",
        ),
        Promise(
            "So does a training run.",
            _tests("training_resume"),
        ),
        Promise(
            "A lost rank of a harvest loses nothing: ranks may die in any order.",
            _tests("harvest_resume"),
        ),
        Promise(
            "A write that fails (every single one in turn) leaves the old model, and a harvest, study or "
            "training that goes on to the same result. On a disk that is really full, and on one that is "
            "read-only, everything says so in a sentence; after room is made, it goes on (small file systems of its "
            "own).",
            _tests("full_disks"),
        ),
        Promise(
            "A second process that trains into a folder or runs its study is refused; the lock of a killed one "
            "is free. Two processes that save a model over each other leave one whole model at every moment; a "
            "kill while it is replaced loses none. Too little memory is said in a sentence and leaves nothing "
            "half-written.",
            _tests("two_processes"),
        ),
        Promise(
            "A clock that jumps changes no bit; a file that vanishes while it is in use is named, with what to do.",
            _tests("clocks_and_vanished_files"),
        ),
    ],
    "Models and prompts": [
        Promise(
            "One head, one layer, odd numbers of heads, tied embeddings, a context of 1, a vocabulary larger "
            "than the tokenizer's: right on every way in. Weights that are not finite never become numbers.",
            _tests("strange_models"),
        ),
        Promise(
            "Empty, megabyte-long, right-to-left, control characters, markup, special tokens: shown as text on "
            "every page and in every file.",
            _tests("strange_prompts"),
        ),
    ],
    "Numbers": [
        Promise(
            "Branches sum to the matrix, virtual heads to the attention output, the identity gives the plain "
            "twin, logits are those of plain loops: on drawn configurations, in float64. The same seed gives "
            "the same bits, another one others.",
            _tests("invariants"),
        ),
    ],
    "A shared machine": [
        Promise(
            "Who may come in, from where, and how often they may try.",
            _tests("gate", "serving"),
        ),
        Promise(
            "Models and stores come from the offered folders alone; the hub is asked when allowed.",
            _tests("access"),
        ),
        Promise(
            "Nothing goes out: the network is watched through all pages.",
            _tests("network"),
        ),
        Promise(
            "An error shown to a browser holds no path and no secret.",
            _tests("errors_shown"),
        ),
        Promise(
            "Every package is pinned, bounded and has a licence.",
            _tests("dependencies"),
        ),
    ],
    "Many people at once": [
        Promise(
            "Five people, each on another prompt, get their own answers.",
            _tests("many_sessions"),
        ),
        Promise(
            "Twenty people for ten minutes: no wrong answer, no error, memory flat.",
            "python -m benchmarks.load --sessions 20 --minutes 10",
        ),
        Promise(
            "Requests are served in turn. A session that closes mid-run, a worker that raises, a sweep that is "
            "cancelled: the next request works. A closed tab frees what it held.",
            _tests("turns", "closed_tabs", "jobs", "intervene_page"),
        ),
        Promise(
            "A URL that reaches the server late undoes nothing that a person has done since.",
            _tests("slow_address"),
        ),
    ],
}
