"""Large models: planned before they are loaded, loaded with a watch, offered under a name, and gone when unloaded."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from model import capture, load_model, save_model
from model.checkpoints.errors import ModelLoadError
from model.checkpoints.load import check_checkpoint
from model.memory import plan
from probes import uncomposed_twin
from probes.interventions import to_json
from tests.checkpoint_dirs import random_model, word_tokenizer, write_neox, write_published
from tests.models import some_tokens
from workbench import loading
from workbench.generating import GenerationRequest, Transcript
from workbench.jobs import Cancelled
from workbench.kept import mentions
from workbench.loading import LoadedModels, plan_load
from workbench.model_choice import ModelChoice
from workbench.scripts.base import run_lines
from workbench.session import Workbench

PUBLISHED = {
    "dcformer": {},
    "dcformer, wqkv apart, in shards": {"split_qkv": True, "shards": 3},
    "dcformer, torch files": {"torch_file": True},
    "dcpythia": {"architecture": "neox"},
    "plain, published": {"compose": False},
    "groups and static mixing": {"groups": 2, "static_mixing": True},
    "ours": {"ours": True},
    "GPT-NeoX": {"neox": True},
}
"""Every layout that is published, and how its files may stand."""


def write_layout(directory, how):
    """A small random checkpoint; nothing is said of its tokenizer."""
    how = dict(how)
    if how.pop("neox", False):
        write_neox(directory)
        return
    ours = how.pop("ours", False)
    files = {name: how.pop(name) for name in ("split_qkv", "shards", "torch_file") if name in how}
    model = random_model(how.pop("architecture", "llama"), **how)
    if ours:
        save_model(model, directory)
    else:
        write_published(model, directory, **files)


def loaded_name(bench: Workbench, choice: ModelChoice) -> str:
    job = bench.start_load(choice)
    job.wait(120)
    return job.value()


# -- the plan ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", PUBLISHED)
def test_every_layout_is_planned_by_its_headers_and_then_loaded(tmp_path, layout):
    directory = tmp_path / "model"
    write_layout(directory, PUBLISHED[layout])
    choice, bench = ModelChoice(str(directory)), Workbench([tmp_path])
    found = plan_load(choice, tokens=11)
    name = loaded_name(bench, choice)
    model = bench.model(name)
    assert name == str(directory)
    assert found.cfg.dtype == model.cfg.dtype
    assert found.planned.parts["weights"] == sum(p.nbytes for p in model.parameters())
    assert found.planned.parts == plan(model.cfg, tokens=11, mode="generate").parts
    assert (found.refusal, found.warning) == (None, None)
    assert "It fits" in found.verdict
    tokens = some_tokens(1, 7, vocabulary=model.cfg.d_vocab)
    assert torch.equal(model(tokens), load_model(directory)(tokens))


def test_a_plan_reads_headers_and_no_weight_but_the_small_static_matrices(tmp_path, monkeypatch):
    write_published(random_model(), tmp_path / "model", shards=2)
    read = []

    def noted(path, name):
        read.append(name)
        return torch.eye(6)[None]

    monkeypatch.setattr("model.checkpoints.tensors._read_safetensors", noted)
    assert plan_load(ModelChoice(str(tmp_path / "model"))).cfg.n_layers == 3
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in read} == {"pre_proj", "post_proj"}


def test_the_dtype_is_that_of_the_weights_or_the_one_asked_for(tmp_path):
    write_published(random_model(dtype=torch.bfloat16), tmp_path / "model")
    assert check_checkpoint(str(tmp_path / "model")).dtype == torch.bfloat16
    wide = plan_load(ModelChoice(str(tmp_path / "model"), dtype="float32"))
    narrow = plan_load(ModelChoice(str(tmp_path / "model")))
    assert wide.planned.parts["weights"] == 2 * narrow.planned.parts["weights"]


def test_a_model_that_does_not_fit_is_refused_and_a_run_that_does_not_is_warned_of(tmp_path, monkeypatch):
    write_published(random_model(), tmp_path / "model")
    choice = ModelChoice(str(tmp_path / "model"))
    weights = plan_load(choice).planned.parts["weights"]
    monkeypatch.setattr(loading, "free_memory", lambda device: weights - 1)
    refused = plan_load(choice)
    assert refused.refusal is not None
    assert "Its weights need 111 KiB in float32, but 111 KiB are free on cpu. Choose dtype bfloat16" in refused.refusal
    monkeypatch.setattr(loading, "free_memory", lambda device: weights + 100)
    warned = plan_load(choice)
    assert warned.refusal is None
    assert warned.warning is not None
    assert warned.warning.startswith(
        "The model fits, this run will not. A generation of 1 x 19 tokens in float32 needs"
    )


@pytest.mark.parametrize("on_purpose", [False, True])
def test_what_the_model_itself_holds_counts_as_free_whoever_loaded_it(on_purpose, tmp_path, monkeypatch):
    write_published(random_model(), tmp_path / "model")
    bench, choice = Workbench([tmp_path]), ModelChoice(str(tmp_path / "model"))
    monkeypatch.setattr(loading, "free_memory", lambda device: 5 << 20)
    before = bench.load_plan(choice, 7, "last")
    if on_purpose:
        loaded_name(bench, choice)
    else:
        bench.model(choice.name)
    after = bench.load_plan(choice, 7, "last")
    assert after.free == before.free + before.planned.parts["weights"]


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'), "gpt2"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 40), "model.safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_its_plan_as_by_loading(tmp_path, break_it, told):
    write_published(random_model(), tmp_path / "model")
    break_it(tmp_path / "model")
    choice = ModelChoice(str(tmp_path / "model"))
    with pytest.raises(ValueError, match=told) as planned:
        plan_load(choice)
    with pytest.raises(ValueError, match=told) as tried:
        loaded_name(Workbench(), choice)
    assert str(planned.value) == str(tried.value)


def test_too_many_tokens_are_refused():
    with pytest.raises(ValueError, match="tokens=2000 was given but the context of this model is 1024"):
        plan_load(ModelChoice("demo/dcformer"), tokens=2000)


# -- loading -----------------------------------------------------------------------------------------


def test_loading_tells_bytes_and_can_be_given_up(tmp_path):
    write_published(random_model(), tmp_path / "model")
    told: list[tuple[int, int]] = []
    model = load_model(tmp_path / "model", watch=lambda done, total: told.append((done, total)))
    weights = sum(p.nbytes for p in model.parameters())
    assert {total for _, total in told} == {weights}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[0][0] == 0
    assert 0.5 * weights < told[-1][0] < weights

    def give_up(done, total):
        if done > total / 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        load_model(tmp_path / "model", watch=give_up)


def test_a_load_that_is_given_up_leaves_nothing(tmp_path, monkeypatch):
    write_published(random_model(), tmp_path / "model")
    entered, go_on = threading.Event(), threading.Event()

    def slow(source, device, dtype, watch):
        def held(done, total):
            entered.set()
            go_on.wait(60)
            watch(done, total)

        return load_model(source, device, dtype, watch=held)

    monkeypatch.setattr("workbench.running_models.load_model", slow)
    bench = Workbench()
    job = bench.start_load(ModelChoice(str(tmp_path / "model"), dtype="float64"))
    entered.wait(60)
    job.cancel()
    go_on.set()
    job.wait(60)
    assert job.cancelled
    assert bench.loaded.names() == []
    assert bench.model_names() == ["demo/dcformer", "demo/transformer"]


def test_a_loaded_model_is_offered_everywhere_under_a_name_of_its_own(tmp_path):
    save_model(load_model("demo/dcformer"), tmp_path / "mine")
    bench = Workbench()
    plain, wide = (ModelChoice(str(tmp_path / "mine"), dtype=dtype) for dtype in (None, "float64"))
    names = [loaded_name(bench, choice) for choice in (plain, wide, plain)]
    assert names == [f"{tmp_path}/mine", f"{tmp_path}/mine [float64]", f"{tmp_path}/mine"]
    assert bench.model_names() == ["demo/dcformer", "demo/transformer", *names[:2]]
    assert bench.model(names[1]).cfg.dtype == torch.float64
    assert bench.capture(names[0], " Mary has").logits is not None
    assert bench.model(names[0]) is bench.model(names[2])


def test_a_model_of_the_folder_is_not_offered_twice(tmp_path):
    save_model(load_model("demo/dcformer"), tmp_path / "mine")
    bench = Workbench([tmp_path])
    before = bench.model_names()
    held = bench.model(str(tmp_path / "mine"))  # a page asked for it
    assert bench.model(loaded_name(bench, ModelChoice(str(tmp_path / "mine")))) is held
    assert bench.model_names() == before


def test_unloading_frees_the_weights_and_all_that_was_made_with_them(tmp_path):
    save_model(load_model("demo/dcformer"), tmp_path / "mine")
    bench = Workbench()
    name = loaded_name(bench, ModelChoice(str(tmp_path / "mine"), dtype="float64"))
    bench.capture(name, " Mary has an apple")
    bench.distances(name, " Mary has an apple")
    bench.maps(name, " Mary has an apple", 0, 1)
    bench.capture("demo/dcformer", " Mary has an apple")
    storages = [weakref.ref(p) for p in bench.model(name).parameters()]
    output = weakref.ref(bench.capture(name, " Mary has an apple").layers[0].W_O)
    bench.unload(name)
    gc.collect()
    assert [ref for ref in storages if ref() is not None] == []
    assert output() is None
    assert bench.loaded.names() == []
    assert {key[0] for key in bench._captures} == {"demo/dcformer"}
    with pytest.raises(ValueError, match="may not be opened"):
        bench.model(name)


def test_unloading_ends_generations_and_frees_their_weights(tmp_path):
    save_model(load_model("demo/dcformer"), tmp_path / "mine")
    bench, out = Workbench(), Transcript("")
    name = loaded_name(bench, ModelChoice(str(tmp_path / "mine"), dtype="float64"))
    job = bench.start_generation(GenerationRequest(name, " Mary", 1000), out)
    while job.running and not out.tokens:
        pass
    weights = weakref.ref(bench.model(name).embed.W_E)
    bench.unload(name)
    gc.collect()
    assert job.cancelled
    assert weights() is None


def test_unloading_takes_what_was_made_under_a_change_too(tmp_path):
    save_model(load_model("demo/dcformer"), tmp_path / "mine")
    bench = Workbench()
    name = loaded_name(bench, ModelChoice(str(tmp_path / "mine"), dtype="float64"))
    changed = bench.under(name, to_json(uncomposed_twin()))
    bench.distances(changed, " Mary has an apple")
    bench.head_table(changed, " Mary has an apple", "diversity")
    bench.unload(name)
    assert [key for cache in bench._caches() for key in cache if mentions(key, name) or mentions(key, changed)] == []


def test_a_capture_that_was_under_way_is_answered_and_not_kept(tmp_path, monkeypatch):
    save_model(load_model("demo/dcformer"), tmp_path / "mine")
    bench, entered, go_on = Workbench(), threading.Event(), threading.Event()
    name = loaded_name(bench, ModelChoice(str(tmp_path / "mine"), dtype="float64"))

    def slow(model, prompt):
        entered.set()
        go_on.wait(60)
        return capture(model, prompt)

    monkeypatch.setattr("workbench.running_models.capture", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(bench.capture, name, " Mary has")
        entered.wait(60)
        second = pool.submit(bench.capture, name, " John has")  # stands in line behind the first
        while len(bench._turn(("run", name))) < 2:
            pass
        unloading = threading.Thread(target=bench.unload, args=(name,))
        unloading.start()
        while name in bench.loaded.names():
            pass
        go_on.set()
        assert [len(first.result(60)), len(second.result(60))] == [2, 2]
        unloading.join(60)
    assert not bench._captures


def test_unloading_what_is_not_loaded_changes_nothing():
    bench = Workbench()
    bench.unload("nothing")
    assert bench.loaded.names() == LoadedModels().names() == []


def test_one_load_runs_at_a_time(monkeypatch):
    entered, go_on = threading.Semaphore(0), threading.Event()

    def slow(reference, *settings, watch):
        entered.release()
        go_on.wait(60)
        return load_model("demo/dcformer", "cpu")

    monkeypatch.setattr("workbench.running_models.load_model", slow)
    bench = Workbench()
    jobs = [bench.start_load(ModelChoice(name)) for name in ("one", "two")]
    assert entered.acquire(timeout=60)
    assert not entered.acquire(timeout=0.5)
    assert sorted(job.waiting for job in jobs) == [False, True]
    go_on.set()
    for job in jobs:
        job.wait(60)
    assert bench.loaded.names() == [job.value() for job in jobs]


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError])
def test_a_load_that_runs_out_of_memory_lets_go_of_the_weights_so_far(kind, tmp_path, monkeypatch):
    save_model(load_model("demo/dcformer"), tmp_path / "mine")
    held = []

    def run_out(model, *arguments):
        held.append(weakref.ref(model.embed.W_E))
        raise kind("out of memory")

    monkeypatch.setattr("model.checkpoints.load.fill", run_out)
    with pytest.raises(ModelLoadError, match="There is not enough memory"):
        load_model(tmp_path / "mine")
    with pytest.raises(ModelLoadError) as kept:
        load_model(tmp_path / "mine")
    job = Workbench([tmp_path]).start_load(ModelChoice(str(tmp_path / "mine"), "cpu"))
    job.wait(60)
    gc.collect()
    assert [ref() for ref in held] == [None] * 3
    assert isinstance(kept.value.__cause__, kind)
    with pytest.raises(ModelLoadError, match="There is not enough memory"):
        job.value()


# -- names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice",
    [
        ModelChoice("demo/dcformer"), ModelChoice("/a b/c [d]", "cuda:1"), ModelChoice("x", dtype="bfloat16"),
        ModelChoice("org/x", "cpu", "float64"), ModelChoice("x [cpu]", "mps"),
    ],
)  # fmt: skip
def test_a_name_says_its_choice(choice):
    assert ModelChoice.from_name(choice.name) == choice


def test_the_line_of_a_script_loads_the_same_model():
    assert run_lines("demo/x [cpu, float64]", "a")[0] == "model = load_model('demo/x', device='cpu', dtype='float64')"
    assert ModelChoice("demo/dcformer").load_line == "load_model('demo/dcformer')"
    model = eval(ModelChoice("demo/dcformer", "cpu", "float64").load_line, {"load_model": load_model})
    assert (model.cfg.dtype, model.cfg.device) == (torch.float64, "cpu")


def test_a_tokenizer_of_words_is_loaded_with_its_model(tmp_path):
    model = random_model()
    model.tokenizer = word_tokenizer()
    save_model(model, tmp_path / "words")
    bench, out = Workbench(), Transcript("w3 w4")
    name = loaded_name(bench, ModelChoice(str(tmp_path / "words")))
    job = bench.start_generation(GenerationRequest(name, "w3 w4", 6), out)
    job.wait(60)
    assert "w3 w4" + job.value().new_text == bench.model(name).generate("w3 w4", 6)
