"""Five people explore at once, each another prompt, in real browsers: every answer is right, nobody waits forever."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.load import How, everyone
from tests.served import serve_workbench


@pytest.mark.browser
def test_five_sessions_at_once_get_their_own_answers(tmp_path):
    with serve_workbench(tmp_path / "log") as served:
        found = asyncio.run(everyone(served.address, served.process.pid, 5, 0.2, How(2, 0.5, 300, None)))
        log = served.output()
    assert found.wrong == []
    assert not sum(found.errors.values()), found.errors
    assert "Traceback" not in log
    answered = {kind: len(seconds) for kind, seconds in found.seconds.items()}
    assert min(answered.values()) >= 5, answered  # everyone had both kinds of answer at least once
