"""The format, read with foreign code; rows, columns and what is said of a damaged or foreign store."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from model import load_model
from probes import Keep, Store
from probes.corpora import Document, Documents, TaskRows
from probes.harvest import harvest
from probes.store import DerivedLabel
from probes.store.derived import derive, exact_quantiles
from probes.store.rows import pieces
from tests.harvest_runs import files_of, id_documents
from tests.models import small_model

DOCUMENTATION = Path(__file__).parent.parent / "docs" / "store.md"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Of the bundled model, several shards."""
    out = tmp_path_factory.mktemp("stores") / "store"
    features = ["parts@2", "residual@1", "predictions", "row_sum@3.composed"]
    made = harvest(load_model("demo/dcformer"), TaskRows([3, 20, 57], 2), out, features, shard_bytes=300_000)
    assert made is not None
    return made


def test_the_example_in_the_documentation_reads_a_store_without_our_code(store):
    (code,) = re.findall(r"```python\n(# without.*?)```", DOCUMENTATION.read_text(), flags=re.DOTALL)
    assert len(code.strip().splitlines()) <= 13
    assert not re.search(r"import (probes|model|workbench)|from (probes|model|workbench)", code)
    names = {"folder": store.folder, "name": "residual@1"}
    exec(code, names)
    np.testing.assert_array_equal(names["values"], store.read("residual@1"))
    pd.testing.assert_frame_equal(names["table"], store.table(list(names["table"].columns)), check_categorical=False)
    np.testing.assert_allclose(names["part"], store.read("query_part@2.post"), rtol=1e-6, atol=1e-7)


def test_shards_hold_whole_documents_and_the_manifest_says_which(store):
    shards = store.manifest.shards
    assert len(shards) > 2
    document = store.table(["document"])["document"].to_numpy()
    start = 0
    for shard in shards:
        own = document[start : start + shard.rows]
        assert set(own) == set(range(shard.first_document, shard.first_document + shard.documents))
        assert len(pq.read_table(store.folder / shard.table)) == shard.rows
        tensors = load_file(store.folder / shard.tensors)
        assert {len(tensor) for tensor in tensors.values()} == {shard.rows}
        start += shard.rows
    assert start == len(store) == json.loads((store.folder / "manifest.json").read_text())["rows"]


@pytest.mark.parametrize("name", ["residual@1", "query_part@2.post", "key_up@2.pre", "next_token_loss"])
def test_any_rows_in_any_order_are_those_of_the_whole(store, name):
    whole = np.concatenate([store.read(name, [row]) for row in range(len(store))])
    np.testing.assert_array_equal(store.read(name), whole)
    assert whole.shape == (len(store), *store.features[name].shape)
    assert str(whole.dtype) == store.features[name].dtype
    size = store.manifest.shards[0].rows
    mask = np.arange(len(store)) % 7 == 3
    for rows in (
        slice(0, 5),
        slice(size - 3, size + 4),
        slice(None, None, -3),
        [5, size + 2, 0, -1, 5],
        mask,
        [],
        slice(4, 4),
    ):
        expected = whole[np.asarray(rows, int)] if isinstance(rows, list) else whole[rows]
        np.testing.assert_array_equal(store.read(name, rows), expected)


def test_rows_of_one_shard_are_a_view_of_the_file(store):
    view = store.read("residual@1", slice(2, 9))
    assert isinstance(view, np.memmap)
    assert not view.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 0


def test_many_shards_of_many_tensors_hold_few_files_open(tmp_path):
    made = harvest(
        small_model(), id_documents((3,) * 30), tmp_path / "store", ["factors", "residual"], [], shard_bytes=1
    )
    assert made is not None
    assert len(made.manifest.shards) == 30
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0
    read = [made.read(name) for name in made.features]
    assert all(len(values) == 90 for values in read)
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) - before <= 30


def test_a_table_has_the_asked_columns_of_the_asked_rows(store):
    whole = store.table()
    assert list(whole) == store.columns
    size = store.manifest.shards[0].rows
    for rows in ([size + 1, 3, 3], slice(size - 2, size + 2), np.arange(len(store)) == 4):
        found = store.table(["casing", "token", "loss_quantile"], rows)
        expected = whole[["casing", "token", "loss_quantile"]].iloc[np.arange(len(store))[rows]].reset_index(drop=True)
        assert found.astype(str).values.tolist() == expected.astype(str).values.tolist()
    assert len(store.table(["token"], [])) == 0


def test_predictions_are_missing_only_where_a_document_ends(store):
    table = store.table()
    ends = table.document != table.document.shift(-1)
    assert table.next_token_loss.isna().equals(ends)
    assert (table.next_token_rank == -1).equals(ends)
    assert table.loss_quantile.isna().equals(ends)
    # many of the small losses are equal, and equal ones are in one class
    assert table.loss_quantile.value_counts(normalize=True).tolist() == pytest.approx([0.2] * 5, abs=0.02)


@pytest.mark.parametrize(
    ("do", "says"),
    [
        (lambda store: store.read("residual@2"), r"no feature 'residual@2'. It has: query_part@2.pre"),
        (lambda store: store.table(["colour"]), r"no column 'colour'. It has: document, position"),
        (lambda store: store.read("residual@1", [10**6]), r"Row 1000000 does not exist: there are \d+"),
        (lambda store: store.read("residual@1", [0.5]), r"whole numbers or a mask, got float64"),
        (lambda store: store.read("residual@1", [True, False]), r"mask has shape \(2,\)"),
        (lambda store: Store.open(store.folder, model=small_model()), r"was made with dcformer .*not with this"),
        (lambda store: Store.open(store.folder.parent), r"is no store: it has no manifest.json"),
    ],
)
def test_what_is_not_there_is_said(store, do, says):
    with pytest.raises(ValueError, match=says):
        do(store)


def test_the_model_that_made_a_store_is_known_again(store):
    assert len(Store.open(store.folder, model=load_model("demo/dcformer"))) == len(store)


@pytest.fixture
def small(tmp_path) -> Store:
    made = harvest(small_model(), id_documents(), tmp_path / "store", ["residual"], shard_bytes=4000)
    assert made is not None
    return made


def test_every_damaged_file_is_named(small):
    small.verify()
    for name in ("shard-00001.safetensors", "shard-00003.parquet"):
        path = small.folder / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"2 of \d+ files .*: shard-00001.safetensors, shard-00003.parquet\. Put"):
        Store.open(small.folder).verify()


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_missing_or_short_file_is_named_on_opening(small, spoil):
    spoil(small.folder / "shard-00002.parquet")
    with pytest.raises(ValueError, match=r"shard-00002.parquet (is missing|has \d+ bytes where the manifest says)"):
        Store.open(small.folder)


def test_another_version_or_format_is_refused(small):
    path = small.folder / "manifest.json"
    fields = json.loads(path.read_text())
    for change in ({"version": 2}, {"format": "zarr"}):
        path.write_text(json.dumps(fields | change))
        with pytest.raises(ValueError, match=r"reads 'dcformer-workbench store' version 1. Harvest again"):
            Store.open(small.folder)
    path.write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        Store.open(small.folder)


def test_only_the_table_may_be_asked_for(tmp_path):
    made = harvest(small_model(), id_documents(), tmp_path / "store", ["next_token_rank"], [])
    assert made is not None
    assert list(made.features) == ["next_token_rank"]
    assert made.read("next_token_rank").dtype == np.int32
    assert made.columns[-1] == "next_token_rank"


def test_a_store_is_the_same_bytes_each_time(tmp_path):
    for name in ("one", "two"):
        harvest(small_model(), id_documents(), tmp_path / name, ["parts"], shard_bytes=2000)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_numbers_of_a_column_are_numbers_in_every_shard(tmp_path):
    columns = [{"year": number or None, "who": number or "x"} for number in range(5)]
    documents = Documents([Document("here", None, (1, 2, 3), given) for given in columns])
    made = harvest(
        small_model(), documents, tmp_path / "out", ["residual@0"], ["year", "who"], keep=Keep(every=2), shard_bytes=99
    )
    assert made is not None
    table = made.table()
    assert len(made.manifest.shards) == 5
    assert np.array_equal(table.year.to_numpy(), [np.nan, np.nan, 1, 1, 2, 2, 3, 3, 4, 4], equal_nan=True)
    assert table.who.tolist() == ["x", "x", "1", "1", "2", "2", "3", "3", "4", "4"]
    assert made.labels["year"].kind == "number"  # type: ignore[union-attr]


# -- parts ---------------------------------------------------------------------------------------


def test_exact_quantiles_of_parts_are_numpys_of_the_whole():
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.exponential(2, 10_001), [0.0, -0.0, 1e-30, 7.5, 7.5, 7.5], rng.normal(9, 1e-6, 500)])
    values = values.astype(np.float32)
    parts = np.split(np.concatenate([values, [np.nan, -1.0]]).astype(np.float32), [100, 101, 5000])
    shares = (0.001, 0.2, 0.5, 0.77, 1.0)
    expected = np.quantile(values, shares, method="inverted_cdf")
    assert exact_quantiles(lambda: parts, shares) == tuple(float(value) for value in expected)
    assert exact_quantiles(lambda: [np.array([np.nan], np.float32)], shares) == ()


def test_a_derived_class_counts_the_edges_at_or_below_the_value():
    label = DerivedLabel("size", "n", (2.0, 6.0), ("small", "middle", "large"), "")
    found = derive(label, np.array([1, 2, 5.9, 6, 100, -1, np.nan]))
    assert list(found[:5]) == ["small", "middle", "middle", "large", "large"]
    assert found[5:].isna().all()
    assert found.ordered


def test_a_store_without_losses_has_no_quantiles(tmp_path):
    made = harvest(small_model(), Documents([Document("one", None, (4,))]), tmp_path / "out", ["predictions"])
    assert made is not None
    assert made.table().loss_quantile.isna().all()


def test_pieces_of_a_selection_tile_the_answer():
    sizes = [3, 0, 4, 1]
    for rows in (None, slice(1, 7), slice(6, 1, -2), [7, 0, 3]):
        found = np.full(8, -1)
        for piece in pieces(rows, sizes):
            found[piece.place] = np.arange(np.cumsum([0, *sizes])[piece.shard], 8)[piece.local]
        wanted = np.arange(8)[slice(None) if rows is None else rows]
        assert found[: len(wanted)].tolist() == wanted.tolist()
