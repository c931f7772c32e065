"""What a corpus is made from, read one document at a time; what is wrong is named by its place."""

from __future__ import annotations

import json
import sys

import pytest

from probes.corpora import Document, Documents, TaskRows, open_corpus
from probes.corpora.text_files import PART_CHARACTERS
from probes.tasks import RULES, generate, write_tasks
from probes.tasks.roles import OBJECTS, roles


def texts(corpus):
    return [document.text for document in corpus]


def test_a_text_file_is_one_document_or_is_split_into_paragraphs_or_lines(tmp_path):
    (tmp_path / "b.txt").write_text("one\ntwo\n\n\n three\n")
    (tmp_path / "a.txt").write_text("first")
    pattern = str(tmp_path / "*.txt")
    assert texts(open_corpus(pattern)) == ["first", "one\ntwo\n\n\n three\n"]
    assert texts(open_corpus(pattern, "paragraph")) == ["first", "one\ntwo\n", " three\n"]
    assert texts(open_corpus(pattern, "line")) == ["first", "one\n", "two\n", " three\n"]
    assert [document.where for document in open_corpus(pattern, "line")][1].endswith("b.txt, document 0")
    with pytest.raises(ValueError, match="split by file, paragraph, line, got 'page'"):
        open_corpus(pattern, "page")


@pytest.mark.parametrize("split", ["file", "paragraph", "line"])
def test_a_long_text_is_cut_at_a_line_end_and_loses_nothing(tmp_path, split):
    lines = [f"line {number} of many that go on and on\n" for number in range(4000)] + ["x" * (2 * PART_CHARACTERS + 5)]
    (tmp_path / "long.txt").write_text("".join(lines))
    found = texts(open_corpus(tmp_path / "long.txt", split))
    assert "".join(found) == "".join(lines)
    assert max(map(len, found)) <= 2 * PART_CHARACTERS
    assert len(found) > 2


def test_json_lines_hold_texts_or_tokens_and_columns(tmp_path):
    path = tmp_path / "c.jsonl"
    rows = [
        {"text": "a b", "genre": "news", "n": [1, 2]},
        {"tokens": [3, 4], "genre": "law"},
        {"text": "c", "tokens": ["x"]},
    ]
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    first, second, third = open_corpus(path)
    assert (first.text, first.ids, first.columns) == ("a b", None, {"genre": "news", "n": [1, 2]})
    assert (second.text, second.ids, second.columns) == (None, (3, 4), {"genre": "law"})
    assert third.columns == {"tokens": ["x"]}
    assert second.where == f"{path}, line 3"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"text": "a"}\n{"txt": "b"}', r"line 2 has no field `text` that holds a text, nor `tokens`"),
        (b'{"text": "a"}\n[1]', r"line 2 holds list"),
        (b'{"text": "a"', r"line 1 is not JSON"),
        (b'{"text": "\xff"}', r"line 1 is not UTF-8"),
        (b'{"tokens": ["a"]}', r"line 1 has no field `text`"),
    ],
)
def test_a_line_that_is_no_document_is_named(tmp_path, content, says):
    (tmp_path / "c.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        list(open_corpus(tmp_path / "c.jsonl"))


def test_a_text_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"c.txt is not UTF-8 \(.*\). Convert it first"):
        list(open_corpus(tmp_path / "c.txt"))


def test_a_saved_dataset_is_read_row_by_row(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not among the requirements")
    rows = datasets.Dataset.from_dict({"text": ["a b", "c"], "genre": ["x", "y"]})
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "two")
    found = list(open_corpus(tmp_path / "one"))
    assert [(one.text, one.columns) for one in found] == [("a b", {"genre": "x"}), ("c", {"genre": "y"})]
    assert texts(open_corpus(tmp_path / "two" / "test")) == ["a b", "c"]
    with pytest.raises(ValueError, match=r"has the splits train, test. Give one of them: .*two/train"):
        open_corpus(tmp_path / "two")


def test_without_datasets_it_is_said_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "dataset_info.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"needs `datasets`: pip install datasets. Or write it as JSON lines"):
        open_corpus(tmp_path)


def test_what_cannot_be_one_corpus_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.jsonl").write_text('{"text": "b"}')
    for source, says in (
        ([tmp_path / "a.txt", tmp_path / "b.jsonl"], "each kind by itself"),
        ([tmp_path / "a.txt", "tasks"], "tasks is a corpus of its own"),
        (tmp_path, r"is a folder, but no saved dataset .*Name its files"),
        (tmp_path / "c.txt", r"No text file matches"),
        ([], "No corpus was named"),
        ("tasks:rows=x", r"has a value that is no number"),
        ("tasks:colour=3", r"has the part 'colour=3'. Known settings: rows, seed"),
        ("tasks:split=test", "There is no split 'test'"),
        ("tasks:rules=99", "There is no task 99"),
    ):
        with pytest.raises(ValueError, match=says):
            open_corpus(source)


def test_task_rows_follow_from_their_spec(tmp_path):
    found = list(open_corpus("tasks:rows=2,rules=3-4+57,seed=5,split=held_out"))
    expected = [generate([rule], 1, 5, "held_out", first=index)[0] for index in (0, 1) for rule in (3, 4, 57)]
    assert [one.text for one in found] == [row.plain_text for row in expected]
    assert [one.columns["task_rule"] for one in found] == ["task3", "task4", "task57"] * 2
    write_tasks(expected, tmp_path / "rows.jsonl")
    assert texts(open_corpus(f"tasks:file={tmp_path / 'rows.jsonl'}")) == texts(found)


def test_documents_are_known_by_all_that_is_read_of_them():
    given = [Document("x", "a"), Document("x", "b"), Document("x", "a", None, {"c": 1}), Document("x", None, (1,))]
    assert len({document.sha256 for document in given}) == len(given)
    assert Document("here", "a").sha256 == Document("there", "a").sha256
    assert texts(Documents(["a", Document("x", "b")])) == ["a", "b"]


def test_records_of_task_rows_are_not_generated_before_they_are_asked_for(monkeypatch):
    corpus = TaskRows([0], 10**6)
    calls = []
    monkeypatch.setattr("probes.corpora.task_rows.generate", lambda *given, **named: calls.append(named) or [1 / 0])
    records = corpus.records()
    for _ in range(1000):
        next(records)
    assert not calls


# -- roles ----------------------------------------------------------------------------------------


def spelt(task: int, line: int) -> list[tuple[str, str]]:
    (row,) = generate([task], 1)
    text = row.plain_text
    start = text.index(row.lines[line].split(" [")[0])
    end = start + len(row.lines[line].replace("[ ", "").replace(" ]", ""))
    return [(text[a:b], role) for a, b, role in roles(row) if start <= a < end]


def test_roles_of_a_line_by_hand():
    assert spelt(0, 0) == [
        ("< ", "statement"), ("Henry", "person"), (" has ", "statement"), ("lemonade", "thing"), (". ", "statement"),
        ("Stephen", "person"), (" has a ", "statement"), ("taxi", "thing"), (". ", "statement"), ("Stephen", "person"),
        (" has a ", "statement"), ("brooch", "thing"), (". >. ", "statement"),
        ("Stephen does not possess a kind of ", "question"), ("drink", "answer"),
    ]  # fmt: skip


@pytest.mark.parametrize("task", RULES)
def test_roles_tile_every_row_and_name_its_answers_persons_and_words(task):
    for row in generate([task], 3):
        text, found = row.plain_text, roles(row)
        assert [start for start, _, _ in found] == [0, *(end for _, end, _ in found[:-1])]
        assert found[-1][1] == len(text)
        said = {role: [text[a:b] for a, b, one in found if one == role] for role in {role for _, _, role in found}}
        assert said["answer"][2:] == [answer.text for answer in row.answers]
        assert len(said["answer"]) == len(said["question"]) == len(row.lines)
        words = 3 * len(row.lines)
        assert len(said[OBJECTS[row.rule.topic]]) == words
        assert len(said.get("person", [])) == (0 if row.rule.form == "odd one out" else words)
