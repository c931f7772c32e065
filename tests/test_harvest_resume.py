"""A harvest that is killed, however often, or shared by processes, leaves the same store as an undisturbed one."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from model import load_model
from probes import Store
from probes.corpora import TaskRows
from probes.harvest import harvest
from probes.harvest.ranks import Ranks
from tests.harvest_runs import command, files_of, id_documents, is_finished, receipts, start, start_ranks
from tests.models import small_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The store of a harvest that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "store"
    done = start(command(out))
    said = done.communicate()[0].decode()
    assert done.returncode == 0, said
    Store.open(out).verify()
    return out


def kill_at_random(process: subprocess.Popen[bytes], out: Path, rng: random.Random) -> int:
    """SIGKILL some time after some number of shards. Returns how many there were."""
    target = receipts(out) + rng.randrange(6)
    while process.poll() is None and receipts(out) < target and not is_finished(out):
        time.sleep(0.002)
    time.sleep(rng.random() * 0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return receipts(out)


def test_a_harvest_killed_at_random_moments_ends_with_the_same_bytes(whole, tmp_path, record_property):
    out, rng = tmp_path / "store", random.Random(time.time_ns())
    moments = [kill_at_random(start(command(out)), out, rng) for _ in range(2)]
    record_property("kills", len(moments))
    done = start(command(out))
    assert done.wait() == 0, moments
    assert files_of(out) == files_of(whole), moments


def test_two_ranks_under_torchrun_make_the_store_of_one(whole, tmp_path):
    out = tmp_path / "store"
    done = start_ranks(command(out), 2)
    said = done.communicate()[0].decode()
    assert done.returncode == 0, said
    assert files_of(out) == files_of(whole)


def test_ranks_may_die_and_start_again_in_any_order(whole, tmp_path, record_property):
    out = tmp_path / "store"

    def rank(number: int) -> subprocess.Popen[bytes]:
        return start(command(out), RANK=str(number), WORLD_SIZE="2")

    rng = random.Random(time.time_ns())
    moments = [kill_at_random(rank(0), out, rng)]
    assert rank(0).wait() == 0
    with pytest.raises(ValueError, match=r"not finished\. Give the command that began it again"):
        Store.open(out)
    moments.append(kill_at_random(rank(1), out, rng))
    record_property("kills", len(moments))
    assert rank(1).wait() == 0, moments
    assert files_of(out) == files_of(whole), moments


def test_a_finished_harvest_is_returned_at_once(whole, monkeypatch):
    monkeypatch.setattr("model.engine.Engine.residual", None)
    corpus = TaskRows(list(range(12)), 1)
    before = files_of(whole)
    store = harvest(load_model("demo/dcformer"), corpus, whole, shard_bytes=round(0.2 * 2**20), batch_tokens=512)
    assert store is not None
    assert files_of(whole) == before


def test_a_shard_whose_files_are_gone_is_made_again(tmp_path):
    model, settings = small_model(), {"shard_bytes": 4000, "ranks": Ranks(0, 2)}
    harvest(model, id_documents(), tmp_path / "whole", ["residual"], shard_bytes=4000)
    assert harvest(model, id_documents(), tmp_path / "out", ["residual"], **settings) is None
    (tmp_path / "out" / "shard-00002.safetensors").unlink()
    (tmp_path / "out" / "shard-00000.parquet").write_bytes(b"short")
    (tmp_path / "out" / "shard-00001.safetensors.tmp").write_bytes(b"half")
    assert harvest(model, id_documents(), tmp_path / "out", ["residual"], shard_bytes=4000) is not None
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_a_second_process_of_the_same_rank_is_refused(tmp_path, monkeypatch):
    model, out = small_model(), tmp_path / "out"

    def in_the_middle(*_: object) -> None:
        with pytest.raises(ValueError, match="Another process is harvesting into"):
            harvest(model, id_documents(), out, ["residual"], tell=print)

    assert harvest(model, id_documents(), out, ["residual"], tell=in_the_middle) is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dtype": "float32"}, 'dtype was "float16", now "float32"'),
        ({"features": ["residual@1"]}, "features was"),
        ({"batch_tokens": 99}, "batch_tokens was 2048, now 99"),
        ({"model": small_model(seed=5)}, r"was made with dcformer \(weights \w{12}\), and this is"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_another_harvest_does_not_go_on_with_this_one(tmp_path, change, says, finished):
    given = {"model": small_model(), "corpus": id_documents(), "out": tmp_path / "out", "features": ["residual"]}
    harvest(**given, ranks=None if finished else Ranks(0, 2), shard_bytes=4000)
    with pytest.raises(ValueError, match=says):
        harvest(**(given | change), shard_bytes=4000)


def test_a_corpus_that_changed_is_noticed(tmp_path):
    given = {"features": ["residual"], "shard_bytes": 4000}
    harvest(small_model(), id_documents(), tmp_path / "out", ranks=Ranks(0, 2), **given)
    for changed in (id_documents(lengths=(5, 31, 2, 24, 13, 60)), id_documents(lengths=(5, 31, 1, 24))):
        with pytest.raises(ValueError, match=r"not what they were when this harvest began"):
            harvest(small_model(), changed, tmp_path / "out", **given)
