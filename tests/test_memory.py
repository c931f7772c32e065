"""What a run takes is said before it is tried, and running out of memory is one sentence."""

import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.memory_plan import Case, measured
from benchmarks.timing import peak_memory
from model import DCFormerConfig, Engine, HookedDCFormer, capture, load_model
from model.backends import using_backend
from model.checkpoints.load import read_config
from model.free_memory import CHECK_FROM, WillNotFit, guard, require_fit
from model.key_cache import caches_for
from model.memory import MEANINGS, MODES, Run, key_cache_bytes, parameter_count, plan
from tests.checkpoint_dirs import random_model, write_published
from tests.models import VARIANTS, small_config, small_model, some_tokens
from workbench.cli import main
from workbench.commands import plan as command

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent

MIDDLE = {
    "n_layers": 4, "d_model": 192, "n_heads": 12, "d_head": 16, "d_mlp": 520, "d_vocab": 701, "n_ctx": 512,
    "visible_keys": (64, None, 64, None),
}  # fmt: skip
"""Sizes at which tensors outweigh a block of maps."""

CASE = ["plan", "--model", "dcformer-2.8b", "--tokens", "2048", "--dtype", "bf16", "--device", "cuda"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_are_counted_as_the_model_has_them(variant):
    cfg = small_config(variant)
    assert parameter_count(cfg) == sum(p.numel() for p in HookedDCFormer(cfg).parameters())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("architecture", "compose"), [("llama", True), ("neox", True), ("llama", False)])
def test_predictions_are_within_15_percent_of_the_tensors_a_run_makes(architecture, compose, mode):
    cfg = DCFormerConfig.from_architecture(architecture, **MIDDLE, compose=compose)
    model = HookedDCFormer(cfg)
    engine, tokens = Engine(model, backend="eager"), some_tokens(3, 480, vocabulary=701)

    def train() -> None:
        optimizer = torch.optim.AdamW(model.parameters())
        model(tokens, return_type="loss").backward()
        optimizer.step()

    run = {
        "last": lambda: engine(tokens, last=True), "logits": lambda: engine(tokens),
        "generate": lambda: engine.generate(tokens[:, :-2], 2), "capture": lambda: capture(engine, tokens),
        "train": train,
    }[mode]  # fmt: skip
    with using_backend("eager"):
        run()
        model.zero_grad(set_to_none=True)
        made = peak_memory(run, CPU)
    predicted = plan(cfg, tokens=480, batch=3, mode=mode)
    assert predicted.total - predicted.parts["weights"] == pytest.approx(made, rel=0.15)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc to measure a peak")
def test_the_memory_of_a_process_rises_as_predicted():
    case = Case("last", 768, layers=2, vocabulary=500, threads=1)
    predicted = case.predicted()
    assert predicted.total - predicted.parts["weights"] == pytest.approx(measured(case), rel=0.3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_key_cache_and_the_capture_are_predicted_to_the_byte(variant):
    model = small_model(variant)
    engine, tokens = Engine(model), some_tokens(2, 11)
    with torch.no_grad():
        caches = caches_for(model.cfg.keys_visible, 13)
        engine(tokens, caches=caches)
    assert key_cache_bytes(Run(model.cfg, "last", 2, 11, 11, torch.float64, "cpu", room=13)) == sum(
        cache.nbytes for cache in caches
    )
    kept = plan(model.cfg, tokens=11, batch=2, device="cuda", mode="capture").in_main_memory
    assert kept["kept by the capture"] + kept["kept logits"] == sum(run.nbytes for run in capture(engine, tokens))


def test_a_capture_that_cannot_fit_is_refused_and_a_smaller_one_is_not(monkeypatch):
    model, tokens = small_model(), some_tokens(2, 20)
    monkeypatch.setattr("model.free_memory.CHECK_FROM", 0)
    needed = plan(model.cfg, tokens=20, batch=2, mode="capture")
    monkeypatch.setattr("model.free_memory.free_memory", lambda device: needed.total - needed.parts["weights"] - 1)
    for source in (model, Engine(model)):
        with pytest.raises(WillNotFit, match=r"A capture of 2 x 20 tokens .* Capture fewer layers or no logits"):
            capture(source, tokens)
        assert len(capture(source, tokens, layers=[1], logits=False)) == 2


def test_what_a_capture_keeps_of_a_run_on_a_gpu_is_main_memory():
    cfg = DCFormerConfig.preset("dcformer-2.8b", dtype="bfloat16")
    planned = plan(cfg, tokens=2048, device="cuda", mode="capture")
    assert "kept by the capture" not in planned.parts
    # 32 layers, 2048 tokens: 3 x 2560 numbers for q, k, v and 4 x 32 x 5 for the factors, in bfloat16
    assert planned.in_main_memory["kept by the capture"] == 32 * 2048 * (3 * 2560 + 4 * 32 * 5) * 2


def test_parts_sum_to_the_total_and_grow_as_they_should():
    cfg = DCFormerConfig.preset("dcformer-405m", n_layers=2)
    short, long = (plan(cfg, tokens=tokens, mode="generate") for tokens in (512, 2048))
    assert short.total == sum(short.parts.values())
    # layer 0 keeps 256 keys at most, layer 1 all of them
    assert long.parts["key cache"] * (512 + 256) == short.parts["key cache"] * (2048 + 256)
    assert long.if_asked["maps of one layer"] == 16 * short.if_asked["maps of one layer"]
    assert long.if_asked["maps of one layer"] == 4 * 16 * 2048 * 2048 * 4


def test_rows_explain_every_part():
    planned = plan(DCFormerConfig.preset("dcformer-405m", n_layers=2), tokens=512)
    rows = planned.rows()
    assert [name for name, _, _ in rows] == ["weights", *sorted(
        set(planned.parts) - {"weights"}, key=lambda name: -planned.parts[name]), *planned.if_asked]  # fmt: skip
    assert all(meaning == MEANINGS[name] for name, _, meaning in rows)
    assert sum(size for name, size, _ in rows if name in planned.parts) == planned.total
    assert planned.fits(planned.total)
    assert not planned.fits(planned.total - 1)


# -- refusing --------------------------------------------------------------------------------------


def test_a_refusal_names_what_is_needed_what_is_free_and_what_to_lower():
    planned = plan(DCFormerConfig.preset("dcformer-2.8b"), tokens=2048, batch=16, dtype="float32", mode="logits")
    require_fit(planned, "cuda", planned.total)
    with pytest.raises(WillNotFit) as refused:
        require_fit(planned, "cuda", 11 * 2**30)
    assert str(refused.value) == (
        "A run for all logits of 16 x 2048 tokens in float32 needs 17.4 GiB on cuda, but 11.0 GiB are free; the "
        "largest parts are weights 10.6 GiB, logits 6.1 GiB, residual stream 640 MiB. "
        "Ask for the last position's logits only (last=True), lower batch (16), lower tokens (2048), "
        "use a narrower dtype than float32 or take a smaller model."
    )


def test_where_the_model_alone_is_too_large_no_shorter_prompt_is_advised():
    planned = plan(DCFormerConfig.preset("dcpythia-6.9b"), tokens=2048, dtype="bfloat16")
    with pytest.raises(WillNotFit, match=r"\. Take a smaller model\.$"):
        require_fit(planned, "cuda", 2**33)


def test_a_large_run_that_will_not_fit_is_refused_before_it_starts(monkeypatch):
    monkeypatch.setattr("model.free_memory.free_memory", lambda device: CHECK_FROM)
    cfg, started = DCFormerConfig.preset("dcformer-405m"), []
    refused = pytest.raises(WillNotFit, match=r"3\.2 GiB on cpu beside the weights, but 1\.0 GiB are free")
    with refused, guard(cfg, "logits", batch=8, tokens=2048, device=CPU):
        started.append(True)
    with guard(cfg, "last", batch=1, tokens=2048, device=CPU):
        started.append(True)
    assert started == [True]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."),
        MemoryError(),
    ],
)
def test_running_out_of_memory_lets_go_of_the_failed_run_and_the_next_one_works(error, monkeypatch):
    engine, tokens = Engine(small_model()), some_tokens(2, 7)
    before, alive = engine(tokens), []

    def fails(q, *others, **options):
        alive.append(weakref.ref(q))
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("model.engine.composed_attention", fails)
        with pytest.raises(WillNotFit) as told, guard(engine.cfg, "logits", batch=2, tokens=7, device=CPU):
            engine(tokens)
    assert "Memory ran out on cpu: a run for all logits of 2 x 7 tokens in float64 takes about" in str(told.value)
    assert "lower batch (2)" in str(told.value)
    assert [ref() for ref in alive] == [None]
    assert torch.equal(engine(tokens), before)


def test_other_errors_of_a_run_pass_unchanged():
    misshapen = pytest.raises(RuntimeError, match="shapes cannot be multiplied")
    with misshapen, guard(small_config(), "last", batch=1, tokens=3, device=CPU):
        torch.ones(2, 3) @ torch.ones(2, 3)


LIMITED = """
import resource, sys
import torch
from model import Engine, load_model
from model.free_memory import WillNotFit, guard
torch.set_num_threads(1)
engine = Engine(load_model("demo/dcformer"), backend="eager")
small, large = torch.ones(1, 4, dtype=torch.long), torch.ones(64, 1024, dtype=torch.long)
before = engine(small)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
try:
    with guard(engine.cfg, "logits", batch=64, tokens=1024, device=torch.device("cpu")):
        engine(large)
except WillNotFit as error:
    print(error)
print(torch.equal(engine(small), before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
def test_an_allocation_that_fails_is_told_in_one_sentence():
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told, same = done.stdout.splitlines()
    assert told.startswith("Memory ran out on cpu: a run for all logits of 64 x 1024 tokens in float32 takes about")
    assert same == "True"


# -- the command -----------------------------------------------------------------------------------


def test_the_command_says_what_a_big_model_takes_without_loading_it():
    done = CliRunner().invoke(main, [*CASE, "--json", "-", "--memory", "24GiB"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["parts"]["weights"] == 2 * parameter_count(DCFormerConfig.preset("dcformer-2.8b"))
    assert told["total"] == sum(told["parts"].values())
    assert told["fits"] is True


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--memory", "1GiB"], "GiB"),
        (["--memory", "lots"], "is not a size"),
        (["--tokens", "9000"], "context of this model is 2048"),
    ],
)
def test_what_will_not_fit_or_makes_no_sense_is_refused(extra, message):
    done = CliRunner().invoke(main, [*CASE, *extra])
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_a_configuration_is_read_without_the_weights():
    cfg, model = read_config("demo/dcformer"), load_model("demo/dcformer")
    assert (cfg.d_model, cfg.n_layers, cfg.visible_keys) == (model.cfg.d_model, 4, model.cfg.visible_keys)
    assert cfg.dtype == torch.float32


def test_a_configuration_needs_no_weights_beside_it(tmp_path):
    write_published(random_model(dtype="bfloat16"), tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    cfg = read_config(tmp_path / "model")
    assert (cfg.d_model, cfg.n_heads, cfg.visible_keys, cfg.dtype) == (24, 6, (5, None, 5), torch.bfloat16)
    done = CliRunner().invoke(main, ["plan", "--model", str(tmp_path / "model"), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "a run for the last position's logits of 1 x 19 tokens in bfloat16 on cpu" in done.output
    assert "It fits:" in done.output


def test_the_table_shows_every_part_and_says_when_the_device_is_not_here():
    done = CliRunner().invoke(main, [*CASE[:-1], "cuda:7", "--mode", "capture"])
    assert done.exit_code == 0, done.output
    for name in plan(DCFormerConfig.preset("dcformer-2.8b"), tokens=2048, device="cuda", mode="capture").in_main_memory:
        assert name in done.output
    assert "weights                   5.3 GiB  all parameters" in done.output
    assert "No cuda:7 is here to compare with. Give --memory 24GiB, say." in done.output


def test_the_command_offers_every_mode():
    assert tuple(MODES) == command.MODES
