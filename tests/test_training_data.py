"""Rows follow from seed, step and number alone; corpora are tokenised once, and damage is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from model.training import shards as shard_files
from model.training.data import Given, Place, TextSource, batch, open_source
from model.training.files import corpus_files
from model.training.shards import TokenShards, tokenise
from model.training.tokenizers import END, open_tokenizer, train_bpe

LINES = [
    f"{name} has {count} red apples, 混合 and one \U0001f9d1."
    for count, name in enumerate(("Ann", "Bob", "Cid", "Dan"))
]


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Two text files of 1 and 40 lines, and a .jsonl of four documents."""
    (tmp_path / "a.txt").write_text(LINES[0] + "\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n".join(LINES * 10) + "\n", encoding="utf-8")
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in LINES), encoding="utf-8")
    return tmp_path


def files_of(corpus: Path) -> list[Path]:
    return corpus_files([f"{corpus}/*.txt", f"{corpus}/*.jsonl"])


def given(corpus: Path, length: int = 7) -> Given:
    return Given(train_bpe(files_of(corpus), 300), length, corpus / "cache")


def test_a_trained_tokenizer_gives_every_text_back(corpus):
    tokenizer = train_bpe(files_of(corpus), 300)
    assert 257 < len(tokenizer) <= 300
    for text in (*LINES, "  two  spaces \t\r\n", "\x00ǖ"):
        assert tokenizer.decode(tokenizer.encode(text), clean_up_tokenization_spaces=False) == text
    assert tokenizer.eos_token == END


def test_a_tokenizer_is_trained_once_and_can_be_given_as_folder_or_file(corpus):
    spec = {"files": f"{corpus}/*.txt", "vocab_size": 290}
    first = open_tokenizer(spec, corpus / "cache")
    (folder,) = (corpus / "cache").iterdir()
    stamp = (folder / "tokenizer.json").stat().st_mtime_ns
    again, by_folder, by_file = (
        open_tokenizer(other, corpus / "cache") for other in (spec, str(folder), str(folder / "tokenizer.json"))
    )
    assert (folder / "tokenizer.json").stat().st_mtime_ns == stamp
    assert again.get_vocab() == by_folder.get_vocab() == by_file.get_vocab() == first.get_vocab()


def test_shards_hold_every_document_followed_by_the_end_token(corpus):
    tokenizer = given(corpus).tokenizer
    folder = tokenise(files_of(corpus), tokenizer, corpus / "cache", shard_tokens=50)
    stored = TokenShards(folder)
    assert len(stored.arrays) == -(-len(stored) // 50) > 5
    assert {array.dtype for array in stored.arrays} == {np.dtype(np.uint16)}
    texts = tokenizer.decode(stored.cut(0, len(stored)), clean_up_tokenization_spaces=False).split(END)
    assert texts == [LINES[0] + "\n", "\n".join(LINES * 10) + "\n", *LINES, ""]


def test_a_cut_runs_over_the_borders_of_files(corpus):
    tokenizer = given(corpus).tokenizer
    small = TokenShards(tokenise(files_of(corpus), tokenizer, corpus / "one", shard_tokens=3))
    large = TokenShards(tokenise(files_of(corpus), tokenizer, corpus / "two"))
    assert len(large.arrays) == 1
    for start, length in ((0, 1), (2, 2), (3, 3), (5, 17), (len(large) - 4, 4)):
        assert small.cut(start, length).tolist() == large.arrays[0][start : start + length].tolist()


def test_long_texts_are_read_in_pieces_that_end_with_a_line(corpus, monkeypatch):
    tokenizer = given(corpus).tokenizer
    whole = TokenShards(tokenise(files_of(corpus), tokenizer, corpus / "one"))
    monkeypatch.setattr("model.training.files.PIECE_CHARACTERS", 100)
    pieces = TokenShards(tokenise(files_of(corpus), tokenizer, corpus / "two"))
    first, second = (tokenizer.decode(stored.cut(0, len(stored))) for stored in (whole, pieces))
    assert first == second


def test_tokenised_files_are_made_once_for_the_same_text_and_tokenizer(corpus, monkeypatch):
    made = given(corpus)
    folder = tokenise(files_of(corpus), made.tokenizer, made.cache)
    monkeypatch.setattr(shard_files, "_write", lambda *arguments: pytest.fail("tokenised again"))
    assert tokenise(files_of(corpus), made.tokenizer, made.cache) == folder
    monkeypatch.undo()
    (corpus / "a.txt").write_text("another text\n")
    assert tokenise(files_of(corpus), made.tokenizer, made.cache) != folder


@pytest.mark.parametrize("harm", ["cut", "changed", "gone", "no manifest"])
def test_damaged_shards_are_noticed(corpus, harm):
    made = given(corpus)
    folder = tokenise(files_of(corpus), made.tokenizer, made.cache)
    path = folder / "tokens-00000.npy"
    content = path.read_bytes()
    if harm == "cut":
        path.write_bytes(content[:-2])
    elif harm == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        (path if harm == "gone" else folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"manifest\.json|missing or damaged"):
        TokenShards(folder)


def specs(corpus: Path) -> dict[str, dict]:
    text = {"text": [f"{corpus}/b.txt", f"{corpus}/c.jsonl"]}
    generator = {"generator": "tests.training_runs:rows"}
    return {
        "windows": text,
        "packed": text | {"order": "packed"},
        "generator": generator,
        "mixture": {"mixture": [text | {"share": 1}, generator | {"share": 3.0}]},
    }


@pytest.mark.parametrize("kind", ["windows", "packed", "generator", "mixture"])
def test_rows_do_not_depend_on_who_asks_for_which_and_when(corpus, kind):
    source, again = (open_source(specs(corpus)[kind], given(corpus)) for _ in range(2))
    whole = [batch(source, 3, step, range(6), 6) for step in range(5)]
    for step in reversed(range(5)):
        for wanted in (range(4, 6), range(0, 2), range(2, 4)):
            tokens, weights = batch(again, 3, step, wanted, 6)
            assert torch.equal(tokens, whole[step][0][wanted.start : wanted.stop])
            assert torch.equal(weights, whole[step][1][wanted.start : wanted.stop])
    assert not torch.equal(batch(source, 4, 0, range(6), 6)[0], whole[0][0])
    assert not torch.equal(whole[0][0], whole[1][0])


def test_packed_rows_are_each_seen_once_an_epoch_in_another_order(corpus):
    source = open_source(specs(corpus)["packed"], given(corpus))
    assert isinstance(source, TextSource)
    count = len(source.shards) // 7
    seen = [tuple(source.row(Place(0, row // 4, row % 4, 4)).ids) for row in range(2 * count)]
    rows = sorted(tuple(source.shards.cut(7 * number, 7)) for number in range(count))
    assert sorted(seen[:count]) == sorted(seen[count:]) == rows
    assert seen[:count] != seen[count:]


def test_a_mixture_keeps_its_shares_and_does_not_bend_the_windows(corpus):
    """What chooses the source may not say where in the text a row starts."""
    made = given(corpus)
    text = TextSource(TokenShards(tokenise(files_of(corpus), made.tokenizer, made.cache)), 7)
    spec = {
        "mixture": [{"share": 0.25, "text": f"{corpus}/*"}, {"share": 0.75, "generator": "tests.training_runs:rows"}]
    }
    spec["mixture"][0]["text"] = list(map(str, files_of(corpus)))
    source = open_source(spec, made)
    chosen = [place for row in range(2000) if len(set(source.row(place := Place(0, 0, row, 2000)).weights)) == 1]
    assert len(chosen) == pytest.approx(500, abs=60)
    starts = [text._start(place) / (len(text.shards) - 7) for place in chosen]
    assert np.mean(starts) == pytest.approx(0.5, abs=0.05)


def unequal(seed, step, row, tokenizer, length):
    return [0] * (length - row), [1.0] * (length - row)


def too_long(seed, step, row, tokenizer, length):
    return [0] * (length + 1), [1.0] * (length + 1)


def negative(seed, step, row, tokenizer, length):
    return [0] * length, [-1.0] * length


def no_tuple(seed, step, row, tokenizer, length):
    return [0] * length


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("unequal", "must have one length, 2 or more, got [5, 6, 7]"),
        ("too_long", "made a row of 8 tokens; at most length=7 fit"),
        ("negative", "have a negative or infinite weight"),
        ("no_tuple", "must return a tuple (ids, weights), got list"),
        ("nothing", "cannot be imported"),
    ],
)
def test_a_generator_that_errs_is_told_so(corpus, name, sentence):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        batch(open_source({"generator": f"tests.test_training_data:{name}"}, given(corpus)), 0, 0, range(3), 3)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({}, "must name one kind of source (text, generator, mixture), got none"),
        ({"text": "a", "generator": "b:c"}, "got text, generator"),
        ({"text": "{corpus}/none*.txt"}, "No text file matches"),
        ({"text": "{corpus}/a.txt", "order": "sorted"}, "order='sorted' is not one of windows, packed"),
        ({"text": "{corpus}/a.txt", "odrer": "packed"}, "unknown key odrer"),
        ({"text": "{corpus}/empty.txt"}, "There is no text in"),
        ({"text": "{corpus}/short.txt"}, "fewer than one row: length=7"),
        ({"text": "{corpus}/latin.txt"}, "is not UTF-8"),
        ({"text": "{corpus}/bad.jsonl"}, "bad.jsonl, line 2, is not JSON"),
        ({"text": "{corpus}/field.jsonl"}, "field.jsonl, line 1, has no field `text`"),
        ({"mixture": []}, "must be a list of sources"),
        ({"mixture": [{"text": "{corpus}/a.txt"}]}, "share must be a number, got None"),
        ({"mixture": [{"text": "{corpus}/a.txt", "share": -1}]}, "none may be negative"),
    ],
)
def test_a_source_that_cannot_be_opened_is_refused_in_a_sentence(corpus, spec, sentence):
    made = given(corpus)
    (corpus / "empty.txt").write_text("")
    (corpus / "short.txt").write_text("a")
    (corpus / "latin.txt").write_bytes("Käse".encode("latin-1"))
    (corpus / "bad.jsonl").write_text('{"text": "x"}\n{"text')
    (corpus / "field.jsonl").write_text('{"body": "x"}\n')
    filled = json.loads(json.dumps(spec).replace("{corpus}", str(corpus)))
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        open_source(filled, made)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("{corpus}/none", "is no folder, no tokenizer.json and no module:function"),
        ("{corpus}", "holds no tokenizer"),
        ("{corpus}/a.txt", "is no tokenizer.json"),
        ({"files": "{corpus}/a.txt"}, "is trained from files and vocab_size; got files"),
        ({"files": "{corpus}/a.txt", "vocab_size": 256}, "vocab_size=256 must be at least 257"),
        ({"files": "{corpus}/a.txt", "vocab_size": "big"}, "tokenizer.vocab_size must be a whole number, got 'big'"),
    ],
)
def test_a_tokenizer_that_cannot_be_opened_is_refused_in_a_sentence(corpus, spec, sentence):
    filled = json.loads(json.dumps(spec).replace("{corpus}", str(corpus)))
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        open_tokenizer(filled, corpus / "cache")
    assert sentence in str(caught.value)


def test_text_without_a_tokenizer_and_a_tokenizer_too_large_for_the_model_are_refused(corpus):
    from model.training.config import model_config
    from tests.training_runs import config

    with pytest.raises(ValueError, match="reads text, which needs a tokenizer"):
        open_source({"text": f"{corpus}/a.txt"}, Given(None, 7, corpus / "cache"))
    with pytest.raises(ValueError, match=r"The tokenizer makes \d+ ids, the model has d_vocab=31"):
        model_config(config(corpus / "out"), given(corpus).tokenizer)
