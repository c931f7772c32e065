"""Every label on hand-made text."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from model import load_model
from probes.corpora import Document
from probes.harvest.encoding import Encoder
from probes.labels import DERIVED, LABELS, CorpusCounts, Sample, column_label, default_labels, resolve_labels
from probes.labels.registry import BUILT_IN
from probes.labels.sample import BANDS, since_change

TEXT = 'Mary has 12 "T-shirts"!\nNASA said: eBay isn\'t  it. (Not so?)'
"""Cut into tokens by hand: every other character class occurs, words of several tokens too."""
TOKENS = ["M", "ary", " has", " 12", ' "', "T", "-", "shirts", '"', "!", "\n", "NASA", " said", ":", " e", "Bay",
          " isn", "'t", "  ", "it", ".", " (", "Not", " so", "?", ")"]  # fmt: skip


def sample(text: str = TEXT, tokens: list[str] = TOKENS, **columns) -> Sample:
    """Tokens of a text, their ids by order of appearance; the model reads 20 at a time."""
    assert "".join(tokens) == text
    ends = np.cumsum([len(token) for token in tokens])
    offsets = np.stack([ends - [len(token) for token in tokens], ends], axis=1)
    known = list(dict.fromkeys(tokens))
    ids = np.array([known.index(token) for token in tokens])
    return Sample(Document("here", text, None, columns), ids, tokens, offsets, np.arange(len(tokens)) // 20)


def by_token(name: str, given: Sample) -> dict[str, object]:
    return dict(zip(given.texts, BUILT_IN[name].of(given), strict=True))


def test_token_class():
    assert by_token("token_class", sample()) == {
        "M": "word", "ary": "word piece", " has": "word", " 12": "number", ' "': "punctuation", "T": "word",
        "-": "punctuation", "shirts": "word piece", '"': "punctuation", "!": "punctuation", "\n": "space",
        "NASA": "word", " said": "word", ":": "punctuation", " e": "word", "Bay": "word piece", " isn": "word",
        "'t": "word piece", "  ": "space", "it": "word", ".": "punctuation", " (": "punctuation", "Not": "word",
        " so": "word",
        "?": "punctuation", ")": "punctuation",
    }  # fmt: skip


def test_casing_is_that_of_the_whole_word():
    found = by_token("casing", sample())
    assert [found[token] for token in ("M", "ary", " has", " 12", "T", "shirts", "NASA", " e", "Bay", "Not", ")")] == [
        "Capitalised", "Capitalised", "lower", "none", "Capitalised", "Capitalised", "UPPER", "mIxed", "mIxed",
        "Capitalised", "none"
    ]  # fmt: skip


def test_punctuation_class():
    found = by_token("punctuation", sample())
    expected = {' "': "quote", "-": "dash", '"': "quote", "!": "sentence end", ":": "colon", "'t": "none",
                ".": "sentence end", " (": "bracket", "?": "sentence end", ")": "bracket", "\n": "none",
                "M": "none", " 12": "none"}  # fmt: skip
    assert {token: found[token] for token in expected} == expected
    assert BUILT_IN["punctuation"].values(sample("a ,b/", ["a", " ,", "b", "/"])) == ["none", "comma", "none", "other"]


def test_position_in_word():
    found = BUILT_IN["position_in_word"].of(sample()).tolist()  # type: ignore[union-attr]
    starts = dict.fromkeys(range(len(TOKENS)), 0) | {1: 1, 6: 1, 7: 2, 15: 1, 17: 1}
    assert found == list(starts.values())


def test_position_in_sentence():
    # sentences end after the quoted exclamation, at the line's end, after "it." and after "so?)"
    found = BUILT_IN["position_in_sentence"].of(sample()).tolist()  # type: ignore[union-attr]
    assert found == [*range(10), 0, *range(10), *range(5)]


def test_repeated_before_looks_only_at_what_the_model_reads_at_once():
    tokens = ["a", " b", " a", " b", *[" c"] * 16, " b", " c", " c"]
    found = BUILT_IN["repeated_before"].of(sample("".join(tokens), tokens))
    assert found == ["new", "new", "new", "repeated", "new", *["repeated"] * 15, "new", "new", "repeated"]


def test_frequency_bands_hold_a_fifth_of_the_tokens_each():
    counts = CorpusCounts(np.array([0, 20, 20, 10, 10, 20, 5, 5, 5, 5]))
    bands = [BANDS[band] for band in counts.band]
    assert bands == ["very rare", "very common", "common", "rare", "rare", "medium", *["very rare"] * 4]
    document = Document("here", None, (1, 5, 9))
    given = Sample(document, np.array(document.ids), ["x", "y", "z"], None, np.zeros(3, int), counts)
    assert BUILT_IN["frequency_band"].of(given) == ["very common", "medium", "very rare"]


def test_token_identity_names_the_frequent_tokens():
    counts = CorpusCounts(np.array([*range(40, 0, -1), 0]))
    ids = np.array([0, 31, 32, 40])
    given = Sample(Document("here", None, (0,)), ids, ["the", "of", "rare", "never"], None, np.zeros(4, int), counts)
    assert BUILT_IN["token_identity"].of(given) == ["the", "of", "other", "other"]


def test_a_column_is_one_value_or_one_a_word_or_one_a_stretch():
    words = ["NAME", "VERB", "NUM", "OBJ", "ORG", "VERB", "ORG", "NEG", "IT", "PAREN", "END"]
    assert len(TEXT.split()) == len(words)
    stretches = [[24, 28, "org"], [0, 4, "person"], [35, 39, "org"]]
    given = sample(genre="news", word=words, span=stretches, year=1999, none=None)
    assert set(column_label("genre").of(given)) == {"news"}
    assert set(column_label("none").of(given)) == {None}
    assert column_label("year", "float64").of(given) == [1999] * len(given)
    assert column_label("year").of(given) == ["1999"] * len(given)
    found = dict(zip(TOKENS, column_label("word").of(given), strict=True))
    assert [found[token] for token in ("M", "ary", "T", "!", "\n", "NASA", "Bay", "'t", "?")] == [
        "NAME", "NAME", "OBJ", "OBJ", None, "ORG", "ORG", "NEG", "END"
    ]  # fmt: skip
    spans = dict(zip(TOKENS, column_label("span").of(given), strict=True))
    assert {token: value for token, value in spans.items() if value} == {
        "M": "person", "ary": "person", "NASA": "org", " e": "org", "Bay": "org"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "columns", "says"),
    [
        ("mood", {"genre": "news"}, r"here has no column 'mood'.*Its columns: genre. Built in: token_class"),
        ("mood", {"mood": ["a", "b"]}, r"here has 2 values in column 'mood' but 11 words between spaces"),
    ],
)
def test_a_column_that_is_missing_or_does_not_fit_is_named(name, columns, says):
    with pytest.raises(ValueError, match=says):
        column_label(name).of(sample(**columns))


def test_labels_of_text_refuse_ids_and_name_the_document():
    bare = Sample(Document("here", None, (1, 2)), np.array([1, 2]), ["<1>", "<2>"], None, np.zeros(2, int))
    for name, label in BUILT_IN.items():
        if label.needs_text:
            with pytest.raises(ValueError, match=rf"here has token ids but no text, which the label {name} needs"):
                label.of(bare)
    with pytest.raises(ValueError, match="3 values in column 'x' but 2 tokens"):
        column_label("x").of(Sample(Document("here", None, (1, 2), {"x": [1, 2, 3]}), bare.ids, [], None, bare.pieces))


def test_derived_labels_need_their_prediction():
    assert [label.name for label in resolve_labels(DERIVED, ["next_token_loss", "next_token_rank"])[1]] == list(DERIVED)
    with pytest.raises(ValueError, match=r"rank_class follows from next_token_rank\. Keep this feature too"):
        resolve_labels(["rank_class"], ["next_token_loss"])
    assert resolve_labels(["next_token_loss"], ["next_token_loss"]) == ([], [])
    with pytest.raises(ValueError, match=r"next_token_rank is a feature, and it is not kept"):
        resolve_labels(["next_token_rank"], ["next_token_loss"])


def test_without_spacy_its_labels_say_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    for name in ("part_of_speech", "dependency:de_core_news_sm"):
        with pytest.raises(ValueError, match=r"need spaCy and its model .*pip install spacy.*All other labels work"):
            resolve_labels([name], [])


def test_with_spacy_each_token_has_the_tag_of_its_word():
    """Needs spaCy and en_core_web_sm, which are not among the requirements."""
    pytest.importorskip("spacy", reason="spaCy is not installed")
    pytest.importorskip("en_core_web_sm", reason="spaCy's English model is not installed")
    tokens = ["Mary", " has", " an", " app", "le", "."]
    given = sample("Mary has an apple.", tokens)
    (pos, dep), _ = resolve_labels(["part_of_speech", "dependency"], [])
    assert pos.of(given) == ["PROPN", "VERB", "DET", "NOUN", "NOUN", "PUNCT"]
    assert dep.of(given) == ["nsubj", "ROOT", "det", "dobj", "dobj", "punct"]


def test_every_label_says_one_value_a_token_of_real_text():
    """The contract of all built-in labels, on the bundled tokenizer, with signs of several bytes and long spaces."""
    encoder = Encoder(load_model("demo/dcformer"), 7)
    texts = [TEXT, "", " ", "naïve café – 5 €\n\n  «ŽŠ» 日本語 🙂🙂 end", "x"]
    ids = np.concatenate([encoder.sample(Document("t", text)).ids for text in texts])
    counts = CorpusCounts(np.bincount(ids, minlength=1664))
    for text in texts:
        given = encoder.sample(Document("here", text), counts)
        for label in BUILT_IN.values():
            values = label.of(given)
            assert len(values) == len(given)
            kinds = {type(value) for value in values}
            assert kinds <= ({str} if label.kind == "class" else {np.int64}), label.name
            assert label.definition
    assert set(default_labels(text=True, predictions=True)) == set(LABELS) - {"part_of_speech", "dependency"}
    assert not {"casing", "loss_quantile"} & set(default_labels(text=False, predictions=False))


def test_since_change_counts_within_runs():
    assert since_change(np.array([4, 4, 4, 1, 1, 4])).tolist() == [0, 1, 2, 0, 1, 0]
    assert since_change(np.array([], int)).tolist() == []
