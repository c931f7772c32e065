"""The shared workbench: one load, one forward, bounded memory, right answers from many threads."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from model import capture, load_model
from probes import Intervention, uncomposed_twin
from probes.interventions import from_json, to_json
from workbench import kept, running_models
from workbench.session import Workbench
from workbench.sweeping import SweepRequest
from workbench.viewer import encode_view
from workbench.views import Selection, head_maps

PROMPTS = [f"Mary has an apple. John has {n} violins." for n in ("two", "three", "four", "five", "six")]


def test_a_model_is_loaded_once_and_a_prompt_run_once(monkeypatch):
    calls = []
    monkeypatch.setattr(running_models, "capture", lambda model, prompt: calls.append(prompt) or capture(model, prompt))
    bench = Workbench()
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: bench.capture("demo/dcformer", PROMPTS[0]), range(16)))
    assert calls == [PROMPTS[0]]
    assert all(run is runs[0] for run in runs)


def test_many_sessions_get_their_own_answers():
    bench, model = Workbench(), load_model("demo/dcformer")
    truth = {prompt: capture(model, prompt).logits for prompt in PROMPTS}
    with ThreadPoolExecutor(5) as pool:
        for prompt, run in zip(
            PROMPTS * 3, pool.map(lambda p: bench.capture("demo/dcformer", p), PROMPTS * 3), strict=True
        ):
            torch.testing.assert_close(run.logits, truth[prompt], rtol=0, atol=1e-5)


def test_maps_are_those_of_the_capture():
    bench = Workbench()
    run = bench.capture("demo/dcformer", PROMPTS[1])
    maps = bench.maps("demo/dcformer", PROMPTS[1], 2, 5)
    torch.testing.assert_close(maps["pattern_composed"], run.pattern(2, heads=5)[0])
    torch.testing.assert_close(maps["scores_raw"], run.scores(2, "raw", heads=5)[0])


def test_turns_are_kept_only_while_someone_has_them_or_waits():
    bench = Workbench()
    for layer in range(3):
        changed = bench.under("demo/dcformer", to_json(Intervention(layers=[layer])))
        bench.distances(changed, PROMPTS[0])
    assert len(bench._turns_of) == 0
    served = []

    def wait_in_line(number: int) -> None:
        with bench._turn("one"):
            served.append(number)

    with ThreadPoolExecutor(3) as pool:
        with bench._turn("one") as first:
            waiting = [pool.submit(wait_in_line, number) for number in range(3)]
            while len(first) < 4:  # all three are in the line of this very turn
                pass
            gc.collect()
            assert bench._turn("one") is first
            del first
            assert served == []
        assert [one.result(60) for one in waiting] == [None] * 3
    assert sorted(served) == [0, 1, 2]
    assert len(bench._turns_of) == 0


def test_the_view_of_a_head_is_kept_and_marks_what_is_asked_for():
    bench, (name, prompt) = Workbench(), ("demo/dcformer", PROMPTS[1])
    first, again = (bench.head_view(name, prompt, Selection(2, 5, 6, key), "scores", None) for key in (3, 4))
    assert (first.selected, again.selected) == ((6, 3), (6, 4))
    truth = head_maps(bench.maps(name, prompt, 2, 5), bench.capture(name, prompt), Selection(2, 5, 6, 3), "scores")
    assert encode_view(first) == encode_view(truth)
    assert all(one.values is other.values for one, other in zip(first.panels, again.panels, strict=True))


def test_memory_is_bounded(monkeypatch):
    one = Workbench().capture("demo/dcformer", PROMPTS[0]).nbytes
    monkeypatch.setattr(running_models, "CAPTURE_BYTES", int(2.5 * one))
    bench = Workbench()
    for prompt in PROMPTS:
        bench.capture("demo/dcformer", prompt)
    assert bench._captures.currsize <= 2.5 * one
    assert len(bench._captures) == 2


def test_a_capture_larger_than_the_cache_is_kept_alone(monkeypatch):
    calls = []
    monkeypatch.setattr(running_models, "capture", lambda model, prompt: calls.append(prompt) or capture(model, prompt))
    monkeypatch.setattr(running_models, "CAPTURE_BYTES", 1000)
    bench = Workbench()
    for prompt in (PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]):
        bench.capture("demo/dcformer", prompt)
    assert calls == PROMPTS[:2], "every click would run the model again"
    assert len(bench._captures) == 1


def test_room_of_a_large_capture_is_given_back_once_the_next_one_has_its_place(monkeypatch):
    bench, kept_at = Workbench(), []
    monkeypatch.setattr(kept, "LARGE_BYTES", 1000)
    monkeypatch.setattr(kept, "give_back_memory", lambda: kept_at.append(len(bench._captures)))
    for prompt in (PROMPTS[0], PROMPTS[0], PROMPTS[1]):
        bench.capture("demo/dcformer", prompt)
    assert kept_at == [1, 2]
    assert not bench.distances("demo/dcformer", PROMPTS[0])["pre"].isnan().any()
    assert len(kept_at) == 2, "what is counted in pieces gives nothing back"


def test_an_error_leaves_the_next_request_working():
    bench = Workbench()
    for bad in ("", "word " * 2000):
        with pytest.raises(ValueError, match=r"Shorten the prompt|The prompt is empty"):
            bench.capture("demo/dcformer", bad)
    assert len(bench.capture("demo/dcformer", " Mary has")) == 2


def test_models_come_from_the_bundle_and_the_folder(tmp_path):
    assert Workbench().model_names() == ["demo/dcformer", "demo/transformer"]
    model = load_model("demo/dcformer")
    from model import save_model

    save_model(model, tmp_path / "mine")
    assert Workbench([tmp_path]).model_names()[-1].endswith("mine")


def test_a_change_is_run_apart_from_the_intact_model():
    bench, change = Workbench(), Intervention(layers=[1])
    questions = [None, to_json(change), to_json(uncomposed_twin())] * 4

    def ask(written):
        name = "demo/dcformer"
        run = bench.capture(name, PROMPTS[0]) if written is None else bench.changed_capture(name, PROMPTS[0], written)
        return run.logits

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, questions))
    model = load_model("demo/dcformer")
    for written, logits in zip(questions, answers, strict=True):
        truth = model(PROMPTS[0]) if written is None else from_json(written).run(model, PROMPTS[0])
        torch.testing.assert_close(logits, truth[0].detach(), rtol=0, atol=1e-5)


def test_maps_under_a_change_are_its_own():
    bench, written = Workbench(), to_json(uncomposed_twin())
    changed = bench.maps("demo/dcformer", PROMPTS[1], 2, 5, written)
    run = bench.changed_capture("demo/dcformer", PROMPTS[1], written)
    torch.testing.assert_close(changed["pattern_composed"], run.pattern(2, heads=5)[0])
    assert not torch.equal(changed["pattern_composed"], bench.maps("demo/dcformer", PROMPTS[1], 2, 5)["pattern_raw"])


def test_a_separate_model_shares_weights_and_nothing_else():
    bench = Workbench()
    shared, own = bench.model("demo/dcformer"), bench.separate_model("demo/dcformer")
    for one, other in zip(shared.parameters(), own.parameters(), strict=True):
        assert one.data_ptr() == other.data_ptr()
    intact = shared(PROMPTS[0])
    with uncomposed_twin().applied(own):
        torch.testing.assert_close(shared(PROMPTS[0]), intact)
        assert not torch.allclose(own(PROMPTS[0]), intact)
    with uncomposed_twin().applied(shared):
        torch.testing.assert_close(own(PROMPTS[0]), intact)


def test_sessions_go_on_while_a_sweep_runs(tmp_path):
    bench = Workbench()
    request = SweepRequest("demo/dcformer", PROMPTS[0], "edge", "loss", (("mode", "identity"),), rows=64)
    job = bench.start_sweep(request, tmp_path / "sweep.jsonl")
    try:
        truth = load_model("demo/dcformer")(PROMPTS[2])[0]
        while job.running and not job.progress[0]:
            pass
        torch.testing.assert_close(bench.capture("demo/dcformer", PROMPTS[2]).logits, truth.detach())
        assert job.running
    finally:
        job.cancel()
        job.wait(120)
    assert job.cancelled
