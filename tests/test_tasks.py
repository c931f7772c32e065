"""In-context tasks: every line is answered rightly by an independent reader, splits are apart, scores are exact."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from model import Engine, load_model
from probes.tasks import (
    FAMILIES,
    HELD_OUT_RULES,
    RULES,
    TaskRow,
    answer_token_mask,
    corrupted,
    generate,
    paired_rows,
    questions_about,
    read_tasks,
    rules_for,
    score,
    write_tasks,
)
from probes.tasks.rows import BRACKETED, facts, items, plain
from tests.task_solver import solve
from workbench.cli import main

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "synthetic_tasks_sample.jsonl"


def answered(line):
    """Does the reader find the answer at the end of a line without brackets? Where it starts is not said."""
    spaces = [i for i, letter in enumerate(line) if letter == " "]
    return any(solve(line[:i]) == line[i + 1 :] for i in spaces[-7:])


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("task_id", sorted(RULES))
def test_every_line_has_one_answer_which_an_independent_reader_finds(task_id, split):
    for row in generate([task_id], 6, seed=3, split=split):
        assert len(row.lines) == 8
        assert [bool(BRACKETED.search(line)) for line in row.lines] == [False] * 2 + [True] * 6
        for line in row.lines[2:]:
            assert solve(line[: line.index("[ ")]) == BRACKETED.search(line)[1], line
        for line in row.lines[:2]:
            assert answered(line), line


def pairs_of(row):
    if row.rule.form == "odd one out":
        return {tuple(sorted(set(items(row.rule, plain(line))))) for line in row.lines}
    return {(fact.subject, fact.object) for line in row.lines for fact in facts(row.rule, plain(line))}


def test_no_pair_of_words_stands_in_both_splits():
    train, held_out = ({pair for row in generate(None, 12, split=split) for pair in pairs_of(row)}
                       for split in ("train", "held_out"))  # fmt: skip
    assert len(train) > 1000
    assert len(held_out) > 500
    assert not train & held_out


def test_held_out_rules_cover_every_family_in_both_wordings():
    kept = {(RULES[task_id].family, RULES[task_id].wording) for task_id in HELD_OUT_RULES}
    assert kept == {(family, wording) for family in FAMILIES for wording in ("forward", "inverted")}
    assert sorted((*rules_for("train"), *rules_for("held_out"))) == list(range(74))


def test_rows_follow_from_seed_and_index():
    assert generate([5, 60], 3, seed=1) == generate([5, 60], 3, seed=1)
    assert generate([5], 2, seed=1, first=3) == generate([5], 5, seed=1)[3:]
    assert generate([5], 2, seed=1) != generate([5], 2, seed=2)


def test_rows_are_read_back_as_they_were_written(tmp_path):
    rows = generate(None, 1)
    write_tasks(rows, tmp_path / "rows.jsonl")
    assert read_tasks(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize("task_id", range(0, 74, 2))
def test_both_wordings_have_the_same_answers(task_id):
    for one, other in paired_rows(task_id, rows=3):
        assert (one.task_id, other.task_id) == (task_id, task_id + 1)
        assert one.text != other.text
        assert [answer.text for answer in one.answers] == [answer.text for answer in other.answers]


@pytest.mark.parametrize("task_id", [0, 13, 18, 37, 44, 51, 56, 69])
def test_a_corrupted_row_has_another_right_answer_in_the_same_places(task_id):
    (row,) = generate([task_id], 1, seed=4)
    changed = corrupted(row)
    assert changed.lines[:-1] == row.lines[:-1]
    line = changed.lines[-1]
    assert solve(line[: line.index("[ ")]) == changed.answers[-1].text != row.answers[-1].text
    assert len(changed.plain_text.split()) == len(row.plain_text.split())


def test_with_a_tokenizer_a_corrupted_row_keeps_every_token_in_its_place():
    tokenizer = load_model("demo/dcformer").tokenizer
    # to this tokenizer " socks" and " unfriendly" begin with a token of their own for the space, which no answer holds
    rows = [row for row in generate([8, 40], 8, seed=6) for _ in range(6)]
    kept = 0
    for place, row in enumerate(rows):
        try:
            changed = corrupted(row, line=2 + place % 6, tokenizer=tokenizer)
        except ValueError:
            continue
        kept += 1
        (ids, owners), (other_ids, other_owners) = (answer_token_mask(r, tokenizer) for r in (row, changed))
        assert owners == other_owners
        assert len(ids) == len(other_ids)
        assert ids != other_ids
    assert kept > 10


def test_answer_positions_are_marked_in_text_and_tokens():
    model = load_model("demo/dcformer")
    for row in generate([2, 33, 58], 2):
        ids, owners = answer_token_mask(row, model.tokenizer)
        for number, answer in enumerate(row.answers):
            assert row.plain_text[answer.start : answer.end] == answer.text
            tokens = [i for i, owner in zip(ids, owners, strict=True) if owner == number]
            assert model.tokenizer.decode(tokens).strip() == answer.text
            assert answer.text in answer.candidates


def test_scores_equal_a_slow_loop_over_single_rows():
    model = load_model("demo/dcformer")
    rows = generate([0, 9, 41, 72], 2, split="held_out")
    table = score(Engine(model), rows, batch_size=3).table(rules=True)
    right, nats, tokens = 0, 0.0, 0
    for row in rows:
        ids, owners = answer_token_mask(row, model.tokenizer)
        with torch.no_grad():
            log_probs = model(torch.tensor([ids]))[0].log_softmax(-1)
        for number in range(len(row.answers)):
            places = [i for i, owner in enumerate(owners) if owner == number]
            right += all(int(log_probs[i - 1].argmax()) == ids[i] for i in places)
            nats -= sum(float(log_probs[i - 1, ids[i]]) for i in places)
            tokens += len(places)
    assert table.loc["overall", "answers"] == 48
    assert table.loc["overall", "exact_match"] == pytest.approx(right / 48)
    assert table.loc["overall", "nats_per_token"] == pytest.approx(nats / tokens, rel=1e-4)
    assert table.loc["task 9", "answers"] == 12
    assert 0 < table.loc["overall", "chance"] < 1


@pytest.mark.skipif(not SAMPLE.exists(), reason="the published sample is not at hand")
def test_the_published_sample_is_read_and_answered():
    rows = read_tasks(SAMPLE)
    assert len(rows) == 296
    lines = [line for row in rows for line in row.lines if BRACKETED.search(line)]
    found = [solve(line[: line.index("[ ")]) for line in lines]
    known = [(given, BRACKETED.search(line)[1]) for given, line in zip(found, lines, strict=True) if given is not None]
    assert len(known) > 0.8 * len(lines)
    assert sum(given == truth for given, truth in known) > 0.95 * len(known)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("{", r"line 1: this is not JSON"),
        ('{"task_id": "task99", "texts": "\\na [ b ]\\n"}', "task0 to task73 are known"),
        ('{"task_id": "task1", "texts": "\\na b\\n"}', r"no answer stands in \[ brackets \]"),
        ('{"task_id": "task1", "texts": "\\na [  ]\\n"}', "a pair of brackets holds no answer"),
        ('{"task_id": 1}', 'needs the texts "task_id" and "texts"'),
    ],
)
def test_a_file_of_other_rows_is_refused_with_its_place(tmp_path, text, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_tasks(path)


def test_what_cannot_be_done_is_said():
    with pytest.raises(ValueError, match="There is no task 74"):
        generate([74])
    with pytest.raises(ValueError, match="There is no split 'test'"):
        generate([1], split="test")
    with pytest.raises(ValueError, match="second wording of task 2"):
        paired_rows(3)
    with pytest.raises(ValueError, match="has no bracketed answer"):
        corrupted(generate([0], 1)[0], line=0)
    model = load_model("demo/dcformer")
    long = TaskRow(0, ("a " * 3000 + "[ b ]",))
    with pytest.raises(ValueError, match=r"Row 0 \(task0\) has \d+ tokens but the context"):
        score(model, [long])
    with pytest.raises(ValueError, match="No task rows"):
        score(model, [])


def test_the_command_scores_and_writes(tmp_path):
    options = ["tasks", "--model", "demo/dcformer", "--rows-per-rule", "1", "--out", str(tmp_path / "scores.json"),
               "--save-rows", str(tmp_path / "rows.jsonl")]  # fmt: skip
    done = CliRunner().invoke(main, options)
    assert done.exit_code == 0, done.output
    assert all(family in done.output for family in (*FAMILIES, "overall"))
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    assert scores["overall"]["answers"] == 74 * 6
    again = CliRunner().invoke(main, ["tasks", "--file", str(tmp_path / "rows.jsonl"), "--rules"])
    assert again.exit_code == 0, again.output
    assert "task 73" in again.output
    refused = CliRunner().invoke(main, ["tasks", "--out", "scores.txt"])
    assert refused.exit_code != 0
    assert "End the name in .json or .csv" in refused.output


@pytest.mark.parametrize("task_id", [0, 4, 9, 17, 20, 33, 38, 41, 46, 51, 54])
def test_every_question_about_stated_facts_has_the_answer_an_independent_reader_finds(task_id):
    for row in generate([task_id], 3, seed=8, lines=2, demonstrations=0):
        for line in row.lines:
            stated = [(fact.subject, fact.object) for fact in facts(row.rule, plain(line))]
            asked = questions_about(row.rule, stated)
            opening = line[: line.index(">.") + 3]
            for question in asked:
                assert solve(opening + question.text.format("")) == question.answer
                assert (question.rule.topic, question.rule.wording) == (row.rule.topic, row.rule.wording)
            # what the line itself asks is among them
            assert line[len(opening) :] in [question.text.format(f"[ {question.answer} ]") for question in asked]


def test_what_has_two_answers_is_not_asked():
    stated = [("Rose", "rifle"), ("Rose", "bee"), ("Charles", "football")]
    texts = {question.text for question in questions_about(RULES[0], stated)}
    assert "Charles has a kind of {}" in texts
    assert "Rose does not have a kind of {}" in texts
    assert not {"Rose has a kind of {}", "Charles does not have a kind of {}"} & texts


def test_lines_and_demonstrations_may_be_more_or_fewer():
    (usual,) = generate([5], 1, seed=1)
    (short,) = generate([5], 1, seed=1, lines=3, demonstrations=0)
    assert [plain(line) for line in short.lines] == [plain(line) for line in usual.lines[:3]]
    assert len(short.answers) == 3
    with pytest.raises(ValueError, match="demonstrations=2 of lines=2"):
        generate([5], 1, lines=2)


def test_an_odd_one_out_rule_states_nothing_to_ask_about():
    with pytest.raises(ValueError, match="Task 60 lists words"):
        questions_about(RULES[60], [("Rose", "Paris")])
