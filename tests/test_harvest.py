"""What is kept, how documents are cut, how large a store will be, and what is refused."""

from __future__ import annotations

import json
from collections import namedtuple

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from model import load_model
from probes import Intervention, Keep
from probes.corpora import Document, Documents, TaskRows
from probes.harvest import estimate, harvest
from probes.harvest.encoding import Encoder
from probes.harvest.forward import batches
from probes.store.manifest import UNFINISHED
from tests.harvest_runs import LENGTHS, files_of, id_documents
from tests.models import small_model
from workbench.cli import main

ROWS = TaskRows([1, 9, 70], 2)


def kept(tmp_path, corpus=None, model=None, **settings):
    store = harvest(model or small_model(), corpus or id_documents(), tmp_path / "out", ["residual@1"], [], **settings)
    assert store is not None
    return store.table(["document", "position"]).to_numpy().tolist()


def test_every_token_is_kept_once_in_the_order_of_the_corpus(tmp_path):
    expected = [[document, place] for document, length in enumerate(LENGTHS) for place in range(length)]
    assert kept(tmp_path, shard_bytes=900) == expected


def test_every_nth_is_counted_within_the_document(tmp_path):
    expected = [[document, place] for document, length in enumerate(LENGTHS) for place in range(0, length, 7)]
    assert kept(tmp_path, keep=Keep(every=7)) == expected


def test_at_most_n_a_document_are_drawn_by_the_seed(tmp_path):
    found = kept(tmp_path / "a", keep=Keep(per_document=4))
    assert np.bincount([document for document, _ in found]).tolist() == [min(4, length) for length in LENGTHS]
    assert found == sorted(found)
    assert kept(tmp_path / "b", keep=Keep(per_document=4), shard_bytes=99) == found
    assert kept(tmp_path / "c", keep=Keep(per_document=4, seed=1)) != found
    assert {place for document, place in found if document == 5} != {0, 1, 2, 3}


def test_the_tokens_of_a_label_are_kept_and_then_thinned(tmp_path):
    model = load_model("demo/dcformer")
    whole = harvest(model, ROWS, tmp_path / "whole", ["residual@1"])
    keep = Keep(label="task_role", values=("answer", "person"), every=2)
    some = harvest(model, ROWS, tmp_path / "some", ["residual@1"], ["casing", "task_role"], keep=keep)
    assert whole is not None
    assert some is not None
    table = whole.table()
    chosen = table[table.task_role.isin(["answer", "person"])]
    expected = chosen[chosen.groupby("document").cumcount() % 2 == 0]
    found = some.table(["document", "position", "casing", "task_role"])
    assert found.astype(str).values.tolist() == expected[list(found)].astype(str).values.tolist()
    np.testing.assert_allclose(some.read("residual@1"), whole.read("residual@1", expected.index.to_numpy()), atol=2e-3)


def test_a_rare_band_may_decide_what_is_kept(tmp_path):
    model, keep = load_model("demo/dcformer"), Keep(label="frequency_band", values=("very rare",))
    whole = harvest(model, ROWS, tmp_path / "whole", ["residual@0"], ["frequency_band"])
    some = harvest(model, ROWS, tmp_path / "some", ["residual@0"], [], keep=keep)
    assert whole is not None
    assert some is not None
    assert len(some) == (whole.table().frequency_band == "very rare").sum() > 0
    assert set(some.table().frequency_band) == {"very rare"}


def test_features_do_not_depend_on_what_else_is_kept_or_on_the_batch(tmp_path):
    corpus, model = id_documents(), small_model()
    features = ["parts", "residual", "predictions"]
    whole = harvest(model, corpus, tmp_path / "whole", features, dtype="float64")
    some = harvest(
        model, corpus, tmp_path / "some", features, dtype="float64", keep=Keep(per_document=3),
        batch_tokens=50, shard_bytes=3000,
    )  # fmt: skip
    assert whole is not None
    assert some is not None
    place = {tuple(at): row for row, at in enumerate(whole.table(["document", "position"]).to_numpy().tolist())}
    rows = [place[tuple(at)] for at in some.table(["document", "position"]).to_numpy().tolist()]
    for name in whole.features:
        np.testing.assert_allclose(some.read(name), whole.read(name, rows), rtol=1e-6, atol=1e-9)


def test_long_documents_are_cut_into_pieces_and_the_manifest_says_so(tmp_path):
    store = harvest(small_model(), id_documents(), tmp_path / "out", ["residual@1"], [], context=11)
    assert store is not None
    corpus = store.manifest.corpus
    assert (corpus["context"], corpus["documents"], corpus["documents_cut"]) == (11, 6, 4)
    assert corpus["pieces"] == sum(-(-length // 11) for length in LENGTHS)
    table = store.table()
    assert (table.piece == table.position // 11).all()
    assert (table.context_position == table.position % 11).all()


def test_a_bos_starts_every_piece_and_is_no_row(tmp_path):
    model = load_model("demo/dcformer")
    model.cfg.default_prepend_bos = True
    model.tokenizer.bos_token = "<"
    bos = model.tokenizer.bos_token_id
    text = "Mary has an apple. John has a violin. Who has it?"
    store = harvest(model, Documents([text]), tmp_path / "out", ["residual@2"], context=8, dtype="float32")
    assert store is not None
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    table = store.table()
    assert table.token_id.tolist() == ids
    assert table.context_position.tolist() == [1 + place % 7 for place in range(len(ids))]
    second = torch.tensor([[bos, *ids[7:14]]])
    truth = model(second, stop_at_layer=2)[0, 1:].detach().numpy()
    np.testing.assert_allclose(store.read("residual@2", slice(7, 14)), truth, rtol=1e-5, atol=1e-5)


def test_pieces_are_padded_on_the_left_and_nothing_after_the_last_kept_token_runs():
    encoder = Encoder(small_model(), 10)
    sample = encoder.sample(Document("x", None, tuple(range(25))))
    pieces = list(encoder.pieces(sample, 3, np.array([2, 5, 21]), 100))
    assert [piece.ids.tolist() for piece in pieces] == [[0, 1, 2, 3, 4, 5], [20, 21]]
    assert encoder.tokens_run(np.array([2, 5, 21])) == 8
    assert encoder.tokens_run(np.array([], int)) == 0
    (batch,) = batches(pieces, 12, torch.device("cpu"))
    assert batch.tokens.tolist() == [[0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 20, 21]]
    assert batch.mask is not None
    assert batch.mask.sum(1).tolist() == [6, 2]
    assert batch.at(batch.tokens).tolist() == [2, 5, 21]
    assert batch.targets.tolist() == [3, 6, 22]
    assert batch.stored.tolist() == [100, 101, 102]
    assert len(list(batches(pieces, 1, torch.device("cpu")))) == 2


@pytest.mark.parametrize(
    ("features", "settings"),
    [
        (None, {}),
        (["parts@1", "predictions"], {"products": True, "dtype": "float32"}),
        (["residual"], {"keep": Keep(every=5)}),
        (["gates"], {"shard_bytes": 20_000}),
    ],
)
def test_the_estimate_is_within_five_percent_of_the_store(tmp_path, features, settings):
    model, corpus = load_model("demo/dcformer"), TaskRows(list(range(0, 74, 3)), 1)
    told = estimate(model, corpus, features, **settings)
    store = harvest(model, corpus, tmp_path / "out", features, **settings)
    assert store is not None
    real = sum(len(content) for content in files_of(tmp_path / "out").values())
    assert told.bytes == pytest.approx(real, rel=0.05)
    assert (told.rows, told.shards, told.tokens) == (
        len(store), len(store.manifest.shards), store.manifest.corpus["tokens"]
    )  # fmt: skip


def test_the_estimate_of_a_table_alone_is_an_upper_bound(tmp_path):
    """How well losses compress is not known before the model has run."""
    model, corpus = load_model("demo/dcformer"), TaskRows(list(range(0, 74, 3)), 1)
    told = estimate(model, corpus, ["predictions"])
    harvest(model, corpus, tmp_path / "out", ["predictions"])
    real = sum(len(content) for content in files_of(tmp_path / "out").values())
    assert real <= told.bytes <= 1.4 * real


def test_what_does_not_fit_the_disk_is_refused_before_anything_is_run(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(10**12, 10**12 - 50_000, 50_000))
    monkeypatch.setattr("model.engine.Engine.residual", None)
    with pytest.raises(ValueError, match=r"needs \d+ KiB more at .*, where 49 KiB are free. Keep fewer tokens"):
        harvest(small_model(), id_documents((24,) * 30), tmp_path / "out", ["residual"])


def test_what_is_not_finite_is_named_with_its_place(tmp_path):
    broken = small_model()
    broken.blocks[1].mlp.w_out.weight.data[:] = float("nan")
    with pytest.raises(ValueError, match=r"query_down@2.pre is NaN .* position 0 of a piece of document \d .*weights"):
        harvest(broken, id_documents(), tmp_path / "a", ["factors@2"])
    large = small_model()
    large.embed.W_E.data[:, 3] = 1e6
    with pytest.raises(ValueError, match=r"residual@0 is 1e\+06 at position \d+ .* float16 can hold. Store float32"):
        harvest(large, id_documents(), tmp_path / "b", ["residual@0"])
    assert harvest(large, id_documents(), tmp_path / "b2", ["residual@0"], dtype="float32") is not None
    large.unembed.weight.data[:] = float("nan")
    with pytest.raises(ValueError, match=r"next_token_loss is NaN or infinite at position"):
        harvest(large, id_documents(), tmp_path / "c", ["next_token_loss"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"corpus": Documents([])}, r"The corpus \(documents\) has no documents. Give one that has text"),
        ({"corpus": id_documents((0, 0))}, r"has 2 documents, all empty"),
        ({"corpus": Documents(["a text"])}, r"document 0 is a text, and this model has no tokenizer"),
        ({"corpus": id_documents(vocabulary=90)}, r"document \d has token id \d+, and the ids of .* run from 0 to 36"),
        ({"labels": ["mood"]}, r"document 0 has no column 'mood', and no built-in label .* Its columns: none"),
        ({"labels": ["casing"]}, r"document 0 has token ids but no text, which the label casing needs"),
        ({"labels": ["loss_quantile"]}, r"follows from next_token_loss. Keep this feature too"),
        ({"features": ["residual@9"]}, r"no 'residual@9'"),
        ({"features": []}, "No feature was chosen"),
        ({"dtype": "int8"}, "dtype='int8' is not known. Store float16, float32, float64"),
        ({"context": 25}, r"context=25 must be 1 to 24 tokens"),
        ({"shard_bytes": 0}, r"shard_bytes=0 must be at least 1"),
        ({"keep": Keep(label="rank_class", values=("1",))}, r"rank_class is known only when the model has run"),
        ({"keep": Keep(label="mood", values=("x",)), "labels": []}, r"has no column 'mood'"),
        ({"keep": Keep(label="token_class", values=("verb",))}, r"None of the 134 tokens of the corpus is kept"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing_begun(tmp_path, settings, says):
    given = {"model": small_model(), "corpus": id_documents(), "out": tmp_path / "out", "features": ["residual@1"]}
    with pytest.raises(ValueError, match=says):
        harvest(**(given | settings))
    assert not (tmp_path / "out" / UNFINISHED / "plan.json").exists()
    assert harvest(**given) is not None  # the folder may be used after all


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"every": 0}, "every=0"),
        ({"per_document": 0}, "per_document=0"),
        ({"label": "casing"}, "belong together"),
        ({"values": ("x",)}, "belong together"),
    ],
)
def test_a_selection_that_means_nothing_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Keep(**settings)


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds thesis.tex, and no harvest was begun there"):
        harvest(small_model(), id_documents(), tmp_path)
    with pytest.raises(ValueError, match=r"thesis.tex is a file. Give a folder"):
        harvest(small_model(), id_documents(), tmp_path / "thesis.tex")


def test_a_changed_model_is_refused(tmp_path):
    model = small_model()
    with Intervention(mode="zero").applied(model), pytest.raises(ValueError, match="A change is applied to this model"):
        harvest(model, id_documents(), tmp_path / "out")
    model.blocks[0].hook_resid_pre.add_hook(lambda value, hook: value)
    with pytest.raises(ValueError, match="The engine runs no hooks"):
        harvest(model, id_documents(), tmp_path / "out")


def test_the_command_line_keeps_what_the_library_keeps(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"text": f"Mary has {word}. Who has it?", "kind": word} for word in ("jeans", "an apple", "a violin")]
    corpus.write_text("\n".join(json.dumps(row) for row in rows))
    arguments = ["--data", str(corpus), "--features", "parts@1.post, predictions", "--labels", "casing,kind,rank_class",
                 "--per-document", "5", "--keep-label", "casing=lower,Capitalised", "--context", "6"]  # fmt: skip
    told = CliRunner().invoke(main, ["harvest", *arguments, "--estimate"])
    assert told.exit_code == 0, told.output
    assert "3 documents" in told.output
    done = CliRunner().invoke(main, ["harvest", *arguments, "--out", str(tmp_path / "cli")])
    assert done.exit_code == 0, done.output
    keep = Keep(label="casing", values=("lower", "Capitalised"), per_document=5)
    store = harvest(
        load_model("demo/dcformer"), str(corpus), tmp_path / "library", ["parts@1.post", "predictions"],
        ["casing", "kind", "rank_class"], keep=keep, context=6,
    )  # fmt: skip
    assert store is not None
    assert files_of(tmp_path / "cli") == files_of(tmp_path / "library")
    listed = CliRunner().invoke(main, ["harvest", "--list"])
    assert "query_part@0.pre to query_part@3.post" in listed.output
    for wrong in (["harvest"], ["harvest", *arguments, "--keep-label", "x"]):
        assert CliRunner().invoke(main, wrong).exit_code == 2
