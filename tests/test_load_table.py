"""The table of benchmarks.load: the warm-up ends with the last session's first round, or is said not to have ended."""

from __future__ import annotations

from benchmarks.load import Found, told

MEMORY = [(0.0, 500.0), (5.0, 610.0), (10.0, 620.0), (15.0, 621.0), (20.0, 622.0)]
TAKEN = "memory at start / after warm-up / at the end, MiB"
WARM = "warm-up: everyone has seen every prompt of theirs, s"
GROWTH = "growth after it, MiB a minute"


def test_the_warm_up_ends_when_the_last_session_has_been_through_its_prompts():
    rows = told(Found(memory=MEMORY, first_round=[3.0, 9.0, 6.0]), 3)
    assert (rows[TAKEN], rows[WARM]) == ("500 / 620 / 622", "9")
    assert rows[GROWTH] == "+12.00"


def test_sessions_that_never_get_round_keep_the_warm_up_from_ending():
    rows = told(Found(memory=MEMORY, first_round=[3.0, 6.0]), 3)
    assert (rows[TAKEN], rows[WARM]) == ("500 / not reached / 622", "not ended: 2 of 3 sessions have")
    assert GROWTH not in rows


def test_a_warm_up_that_ends_after_the_last_sample_has_a_table_too():
    rows = told(Found(memory=MEMORY, first_round=[3.0, 20.5]), 2)
    assert (rows[TAKEN], rows[WARM]) == ("500 / not reached / 622", "20")
    assert GROWTH not in rows


def test_a_run_without_any_answer_has_a_table_too():
    rows = told(Found(memory=MEMORY[:1]), 4)
    assert rows["new prompt, answers"] == "0"
    assert rows[WARM] == "not ended: 0 of 4 sessions have"
