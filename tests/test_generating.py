"""Watched generation: the engine's text, each token's composition as a capture has it, a stop, and fair turns."""

from __future__ import annotations

import gc
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from model import Engine, capture, load_model
from model.config import SITES
from model.generation import NewToken
from workbench.generating import (
    GenerationRequest,
    Transcript,
    backends_in_use,
    generate_watched,
    mean_over_heads,
    memory_in_use,
    place_of_token,
)
from workbench.generation_views import growth_view
from workbench.jobs import Cancelled
from workbench.session import Workbench
from workbench.turns import Turn

NAME = "demo/dcformer"
PROMPT = "< Mary has an apple. John has a violin. >. Who has"


@pytest.fixture(scope="module")
def model():
    return load_model(NAME)


def generated(model, request: GenerationRequest, watch=lambda done, total: None, turns=nullcontext) -> Transcript:
    return generate_watched(model, request, Transcript(request.prompt), watch, turns)


def whole_ids(out: Transcript) -> torch.Tensor:
    return torch.tensor([*out.prompt_ids, *(token.id for token in out.tokens)])


# -- text and composition ----------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.7, "seed": 3}, {"temperature": 1.0, "top_k": 5, "seed": 8}])
def test_the_streamed_text_is_the_engines(model, sampling):
    out = generated(model, GenerationRequest(NAME, PROMPT, 23, **sampling))
    assert PROMPT + out.new_text == Engine(model).generate(PROMPT, 23, **sampling)
    assert len(out.tokens) == 23
    assert out.prompt_ids == model.to_tokens(PROMPT)[0].tolist()


def test_each_tokens_composition_is_that_of_a_capture_of_the_whole_text(model):
    out = generated(model, GenerationRequest(NAME, PROMPT, 9))
    run = capture(model, whole_ids(out))
    for site in SITES:
        found = out.distances(site)
        assert found.shape == (9, model.cfg.n_layers, model.cfg.n_heads)
        for layer in range(model.cfg.n_layers):
            truth = run.mixing(layer, site).query_distances_from_identity()[len(out.prompt_ids) :]
            np.testing.assert_allclose(found[:, layer], truth.numpy(), rtol=2e-3, atol=1e-5)


def test_without_composition_the_text_is_the_same_and_there_are_no_rows(model):
    plain = generated(model, GenerationRequest(NAME, PROMPT, 7, composition=False))
    assert plain.rows == []
    assert plain.new_text == generated(model, GenerationRequest(NAME, PROMPT, 7)).new_text
    assert plain.decode_steps == 6


def test_speeds_are_of_prompt_and_steps_apart(model):
    out = generated(model, GenerationRequest(NAME, PROMPT, 5))
    assert out.prefill_speed == pytest.approx(len(out.prompt_ids) / out.prefill_s)
    assert out.decode_steps == 5  # the last token is run too, for its composition
    assert out.decode_speed == pytest.approx(5 / out.decode_s)
    assert Transcript("").decode_speed is Transcript("").prefill_speed is None


def test_mean_over_heads_keeps_the_unit():
    rows = {site: np.array([[3.0, 4.0, 0.0], [2.0, 2.0, 2.0]]) for site in SITES}
    np.testing.assert_allclose(mean_over_heads(rows)["pre"], [np.sqrt(25 / 3), 2.0])


def test_the_picture_of_a_growing_text_shows_the_mean_over_heads_of_each_token(model):
    out = generated(model, GenerationRequest(NAME, PROMPT, 5))
    panels = growth_view(out, 7, model.cfg, ["a"] * 5, 2).panels
    for site, panel in zip(SITES, panels, strict=True):
        truth = np.stack([mean_over_heads(row)[site] for row in out.rows], axis=1)
        np.testing.assert_allclose(panel.values[:, :5], truth, rtol=1e-6)
        assert np.isnan(panel.values[:, 5:]).all()


def test_what_there_is_so_far_does_not_grow(model):
    out, seen = Transcript(PROMPT), []
    request = GenerationRequest(NAME, PROMPT, 6)
    generate_watched(model, request, out, lambda done, total: seen.append(out.so_far()), nullcontext)
    assert all(len(one.rows) <= len(one.tokens) <= len(one.rows) + 1 for one in seen)
    assert {len(one.tokens) for one in seen} == set(range(7))
    assert out.new_text.startswith(seen[-20].new_text)


def test_a_plain_model_is_generated_from_at_no_distance():
    model = load_model("demo/transformer")
    out = generated(model, GenerationRequest("demo/transformer", PROMPT, 4))
    assert not out.distances("pre").any()
    assert "no heads are mixed" in backends_in_use(model, 10)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"max_new_tokens": 2000}, "leaves no room for 2000 more in a context of 1024"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"top_k": 4}, "contradicts top_k"),
        ({"prompt": "word " * 3000}, "context"),
    ],
)
def test_bad_requests_are_one_sentence(model, change, told):
    with pytest.raises(ValueError, match=told):
        generated(model, GenerationRequest(**({"model": NAME, "prompt": PROMPT, "max_new_tokens": 5} | change)))


# -- stopping ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", [1, 4])
def test_a_stop_comes_within_a_token(model, stop_at):
    out = Transcript(PROMPT)

    def watch(done, total):
        assert total == 50
        if done >= stop_at:
            raise Cancelled

    with pytest.raises(Cancelled):
        generate_watched(model, GenerationRequest(NAME, PROMPT, 50), out, watch, nullcontext)
    assert len(out.tokens) == stop_at
    assert len(out.rows) == stop_at - 1
    assert (PROMPT + out.new_text) == Engine(model).generate(PROMPT, stop_at)
    assert model.taps.count == 0


def test_a_stop_does_not_wait_for_a_long_prompt(model):
    seen = []

    def watch(done, total):
        seen.append(done)
        if len(seen) == 3:  # within the layers of the first step
            raise Cancelled

    out = Transcript(PROMPT)
    with pytest.raises(Cancelled):
        generate_watched(model, GenerationRequest(NAME, PROMPT, 50), out, watch, nullcontext)
    assert out.tokens == []
    assert out.prefill_s == 0


def test_a_generation_that_waits_for_its_turn_can_be_stopped(model):
    turn, out, stop = Turn(), Transcript(PROMPT), threading.Event()

    def watch(done, total):
        if stop.is_set():
            raise Cancelled

    with ThreadPoolExecutor(1) as pool, turn:
        request = GenerationRequest(NAME, PROMPT, 5)
        ended = pool.submit(generate_watched, model, request, out, watch, lambda: turn)
        while len(turn) < 2:
            pass
        stop.set()
        with pytest.raises(Cancelled):
            ended.result(60)
    assert len(turn) == 0


# -- beside other sessions ---------------------------------------------------------------------------


def test_sessions_generate_and_capture_side_by_side_and_no_answer_is_anothers(model):
    bench = Workbench()
    prompts = [f"Mary has an apple. John has {n}" for n in ("two", "three", "four")]
    transcripts = [Transcript(prompt) for prompt in prompts]
    jobs = [
        bench.start_generation(GenerationRequest(NAME, prompt, 40), out)
        for prompt, out in zip(prompts, transcripts, strict=True)
    ]
    texts = [f" Anna went to {place}." for place in ("Rome", "Paris", "Oslo", "Lima", "Cairo")]
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda text: bench.capture(NAME, text), texts))
    for job in jobs:
        job.wait(120)
    for text, run in zip(texts, runs, strict=True):
        torch.testing.assert_close(run.logits, capture(model, text).logits, rtol=0, atol=1e-5)
    for prompt, job in zip(prompts, jobs, strict=True):
        out = job.value()
        assert prompt + out.new_text == Engine(model).generate(prompt, 40)
        run = capture(model, whole_ids(out))
        truth = run.mixing(2, "post").query_distances_from_identity()[-40:]
        np.testing.assert_allclose(out.distances("post")[:, 2], truth, rtol=2e-3, atol=1e-5)


def test_two_generations_take_turns_token_by_token():
    bench, order = Workbench(), []
    turn = bench._turn(("run", NAME))

    class Noted(Turn):
        def __enter__(self):
            super().__enter__()
            order.append(threading.get_ident())
            return self

    turn = bench._turns_of[("run", NAME)] = Noted()
    outs = [Transcript(f"Mary has {n}") for n in ("one", "two")]
    with turn:  # both stand in line before either begins
        jobs = [bench.start_generation(GenerationRequest(NAME, out.prompt, 20), out) for out in outs]
        while len(turn) < 3:
            pass
    for job in jobs:
        job.wait(120)
        job.value()
    steps = [name for name in order if name != threading.get_ident()][2:]  # each makes its model in its first turn
    changes = sum(a != b for a, b in itertools.pairwise(steps))
    assert len(steps) == 2 * 21
    assert changes >= 20  # strict alternation would be 41; a busy machine may let one go twice


def test_a_capture_waits_for_one_token_at_most(model):
    bench, out = Workbench(), Transcript(PROMPT)
    job = bench.start_generation(GenerationRequest(NAME, PROMPT, 300), out)
    while not out.tokens:
        pass
    for number in range(5):
        bench.capture(NAME, f" Anna has {number} apples.")
    assert job.running
    job.cancel()
    job.wait(60)
    assert job.cancelled
    assert PROMPT + out.new_text == Engine(model).generate(PROMPT, len(out.tokens))


def test_a_generation_that_nobody_holds_any_more_ends(model):
    bench, out = Workbench(), Transcript(PROMPT)
    job = bench.start_generation(GenerationRequest(NAME, PROMPT, 1000), out)
    while not out.tokens:
        pass
    thread = job._thread
    del job  # a closed tab
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()
    assert len(out.tokens) < 1000
    assert bench.capture(NAME, " Mary has").logits is not None


def test_four_generations_run_at_once_and_the_next_waits_or_is_cancelled():
    bench, outs = Workbench(), [Transcript(f"Mary has {number}") for number in range(6)]
    jobs = [bench.start_generation(GenerationRequest(NAME, out.prompt, 1000), out) for out in outs]
    while sum(bool(out.tokens) for out in outs) < 4:
        pass
    assert [job.waiting for job in jobs] == [not out.tokens for out in outs]
    assert sum(job.waiting for job in jobs) == 2
    last = next(job for job in jobs if job.waiting)
    last.cancel()
    last.wait(60)
    assert last.cancelled
    for job in jobs:
        job.cancel()
        job.wait(60)


# -- to Explore --------------------------------------------------------------------------------------


def test_a_token_is_found_again_in_the_text_so_far(model):
    out = generated(model, GenerationRequest(NAME, PROMPT, 12))
    for index in (0, 5, 11):
        place = place_of_token(model, out, index)
        assert place.exact
        assert place.prompt == PROMPT + "".join(token.text for token in out.tokens[: index + 1])
        run = capture(model, place.prompt)
        assert run.tokens[place.query] == out.tokens[index].id
        np.testing.assert_allclose(
            out.rows[index]["pre"][1], run.mixing(1, "pre").query_distances_from_identity()[place.query],
            rtol=2e-3, atol=1e-5,
        )  # fmt: skip


def test_a_token_within_a_character_goes_on_to_its_end(model):
    ids = model.to_tokens(" 🙂")[0].tolist()
    assert len(ids) > 2

    out = Transcript("Mary", model.to_tokens("Mary")[0].tolist())
    out.tokens = [NewToken(ids[0], " "), *(NewToken(i, "") for i in ids[1:-1]), NewToken(ids[-1], "🙂")]
    place = place_of_token(model, out, 1)
    assert (place.prompt, place.query, place.exact) == ("Mary 🙂", len(out.prompt_ids) + 1, True)


def test_a_text_that_is_cut_otherwise_is_said_to_be(model):
    letters = [model.to_tokens(letter)[0].tolist() for letter in " apple"]
    assert all(len(ids) == 1 for ids in letters)
    out = Transcript("Mary has an", model.to_tokens("Mary has an")[0].tolist())
    out.tokens = [NewToken(ids[0], letter) for ids, letter in zip(letters, " apple", strict=True)]
    place = place_of_token(model, out, 5)
    tokens = model.to_tokens("Mary has an apple")[0]
    assert (place.prompt, place.query, place.exact) == ("Mary has an apple", len(tokens) - 1, False)


def test_memory_is_the_processs(model):
    held = memory_in_use("cpu")
    assert list(held) == ["process"]
    assert held["process"] > sum(p.nbytes for p in model.parameters())
