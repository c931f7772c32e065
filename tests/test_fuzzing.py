"""A bounded part of the fuzzing of every reader, the same cases each time; `python -m tests.fuzzing` draws more."""

from __future__ import annotations

import json
import os
import signal
import zipfile
from pathlib import Path

import pytest

from tests.fuzzing.component import Case, Component
from tests.fuzzing.judge import MARKER, Fault, judged
from tests.fuzzing.registry import COMPONENTS
from tests.fuzzing.runner import explore, run

CASES = {"torch_file": 60, "training": 60, "study": 80}
"""Of slow readers; 250 of all others."""


@pytest.mark.parametrize("name", COMPONENTS)
def test_no_file_does_more_than_be_read_or_refused_in_a_sentence(name, tmp_path, monkeypatch, record_property):
    monkeypatch.setenv(MARKER, str(tmp_path))
    component, kinds = COMPONENTS[name](), set()
    for files in component.valid.values():
        assert judged(component, Case(files, "valid"), tmp_path).kind == "read"
    cases = CASES.get(name, 250)
    explore(component, lambda case: kinds.add(judged(component, case, tmp_path).kind), cases, None)
    record_property("cases", cases)
    # cases that are all read, or all refused, would try one half of the reader alone; a link is never refused whole
    assert {kind.partition(" ")[0] for kind in kinds} == ({"read"} if name == "links" else {"read", "refused"})


# -- the judge itself: what must fail does -----------------------------------------------------------------


def reader(read) -> Component:
    return Component("tried", lambda: {"one": {"file": b"content"}}, lambda draw, files: "nothing", read)


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (lambda folder: json.loads("{"), "another error than"),
        (lambda folder: int("x"), "an error of a library"),
        (lambda folder: bytearray(400 << 20)[::4096], "reading took"),
        (lambda folder: os.system("true"), "os.system"),
        (lambda folder: (folder.parent / MARKER).touch(), "code from the file was run"),
        (lambda folder: [][1], "another error than"),
    ],
)
def test_the_judge_sees_every_kind_of_fault(read, says, tmp_path):
    with pytest.raises(Fault, match=says):
        judged(reader(read), Case({"file": b""}, "nothing"), tmp_path)


@pytest.mark.parametrize(
    ("harm", "says"), [(lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL"), (lambda: os._exit(3), "exit code 3")]
)
def test_a_reader_that_takes_its_process_down_is_told(harm, says):
    def read(folder: Path) -> None:
        if (folder / "file").read_bytes() == b"":
            harm()

    def empty(draw, files) -> str:
        files["file"] = b""
        return "emptied"

    tally = run(Component("tried", lambda: {"one": {"file": b"content"}}, empty, read), 1, 1)
    assert says in next(iter(tally.faults))


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused_before_it_is_unpacked(tmp_path):
    from model import load_model
    from model.checkpoints import ModelLoadError
    from tests.checkpoint_dirs import random_model, write_published

    write_published(random_model(), tmp_path, torch_file=True)
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"]" * 2**22 + b".")
    with pytest.raises(ModelLoadError, match=r"was refused: it unpacks to \d+ bytes from \d+"):
        load_model(tmp_path)
