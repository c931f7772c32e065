"""Runs recorded as graphs. On a CPU a function that keeps its inputs' memory, as a graph does, plays a recording."""

from __future__ import annotations

import warnings

import pytest
import torch

from model import Engine
from model import engine as engine_module
from model import graphs as graphs_module
from model.backends import fallbacks
from model.backends.fallbacks import fallback_messages
from model.engine import recordable
from model.graphs import MOST_SHAPES, MOST_SIGHTED, Graphs
from model.key_cache import caches_for
from probes import Intervention
from tests.models import relative_error, small_model, some_tokens


@pytest.fixture(autouse=True)
def nothing_failed_before(monkeypatch):
    monkeypatch.setattr(graphs_module, "_cannot", set())
    monkeypatch.setattr(fallbacks, "_messages", {})


@pytest.fixture
def recordings(monkeypatch):
    """How often each recording was played. Its inputs are copied to where the first ones stood."""
    played: list[int] = []

    def record(run, inputs):
        own, at = [None if given is None else given.clone() for given in inputs], len(played)
        played.append(0)

        def replay(given):
            played[at] += 1
            for kept, value in zip(own, given, strict=True):
                if kept is not None:
                    kept.copy_(value)
            return run(*own)

        return replay

    monkeypatch.setattr(graphs_module, "record", record)
    monkeypatch.setattr(engine_module, "recordable", lambda model: True)
    return played


def test_a_shape_is_recorded_when_it_comes_again_and_gives_the_models_logits(recordings):
    model = small_model("llama windows")
    engine = Engine(model)
    for seed in range(4):
        torch.manual_seed(seed)
        tokens = torch.randint(0, model.cfg.d_vocab, (2, 7))
        with torch.no_grad():
            assert relative_error(engine(tokens), model(tokens)) < 1e-12
    engine(some_tokens(2, 6))
    assert recordings == [3]


def test_padding_is_part_of_a_recordings_inputs(recordings):
    model, tokens = small_model("llama windows"), some_tokens(2, 7)
    engine = Engine(model)
    for padding in (1, 3, 2, None, 5):
        mask = None
        if padding is not None:
            mask = torch.ones(2, 7, dtype=torch.bool)
            mask[0, :padding] = False
        with torch.no_grad():
            assert relative_error(engine(tokens, attention_mask=mask), model(tokens, attention_mask=mask)) < 1e-12
    assert recordings == [3]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("variant", ["llama windows", "plain"])
def test_recorded_steps_continue_as_the_hooked_model_does_beyond_the_window_too(recordings, variant, padded):
    model, tokens = small_model(variant), some_tokens(2, 4)
    mask = torch.tensor([[False, True, True, True], [True] * 4]) if padded else None
    options = {"attention_mask": mask, "temperature": 0.7, "seed": 5}
    with torch.no_grad():
        truth = model.generate(tokens, 11, **options)
    assert torch.equal(Engine(model).generate(tokens, 11, **options), truth)
    assert recordings == [10]  # the prompt runs as called


def test_a_recorded_steps_logits_are_those_of_the_step_as_called(recordings):
    model, tokens = small_model("llama windows"), some_tokens(2, 15)
    with torch.no_grad():
        truth = model(tokens)
        caches = caches_for(model.cfg.keys_visible, 15)
        engine = Engine(model)
        engine(tokens[:, :3], caches=caches)
        for at in range(3, 15):
            assert relative_error(engine(tokens[:, at : at + 1], last=True, caches=caches), truth[:, at]) < 1e-11
    assert recordings == [12]


def test_interventions_are_never_recorded_and_never_played_over(recordings):
    model, tokens = small_model("llama windows"), some_tokens(2, 7)
    engine, cut = Engine(model), Intervention(layers=[1], sites=["post"], branches=["query_lowrank"], mode="zero")
    with torch.no_grad():
        whole = model(tokens)
        for _ in range(3):
            engine(tokens)
        with cut.applied(model):
            for _ in range(3):
                assert relative_error(engine(tokens), model(tokens)) < 1e-12
                assert relative_error(engine(tokens), whole) > 1e-4
        assert relative_error(engine(tokens), whole) < 1e-12


def test_weights_that_moved_are_recorded_again(recordings):
    model, tokens = small_model("llama windows"), some_tokens(2, 7)
    engine = Engine(model)
    for _ in range(3):
        engine(tokens)
    old = model.embed.W_E  # kept, so that its memory is not given to the new weights
    model.embed.W_E = torch.nn.Parameter(old.detach() * 2)
    with torch.no_grad():
        for _ in range(3):
            assert relative_error(engine(tokens), model(tokens)) < 1e-12
    assert recordings == [2, 2]


def test_few_shapes_are_kept_and_the_oldest_goes_first(recordings):
    graphs = Graphs()
    one = torch.ones(1)
    twice = [key for key in range(MOST_SHAPES + 1) for _ in range(2)]
    for key in [*twice, 0, 1]:  # 0 has gone when it comes again
        graphs(key, lambda x: x + 1, (one,))
    assert len(graphs._recorded) == MOST_SHAPES
    assert recordings == [1, 2] + [1] * (MOST_SHAPES - 1)


def test_shapes_that_come_once_push_no_recording_out_and_are_not_remembered_without_end(recordings):
    graphs = Graphs()
    one = torch.ones(1)
    for key in [0, 0, *range(1, MOST_SIGHTED + 2), 0]:
        graphs(key, lambda x: x + 1, (one,))
    assert recordings == [2]
    assert len(graphs._sighted) == MOST_SIGHTED
    graphs(2, lambda x: x + 1, (one,))  # still known, and 1 is not
    graphs(1, lambda x: x + 1, (one,))
    graphs("another", lambda x: x + 1, (one,))
    assert recordings == [2, 1]


def test_a_run_that_cannot_be_recorded_warns_once_and_runs_as_called(monkeypatch):
    def record(run, inputs):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graphs_module, "record", record)
    monkeypatch.setattr(engine_module, "recordable", lambda model: True)
    model, tokens = small_model("llama windows"), some_tokens(2, 7)
    engine = Engine(model)
    with torch.no_grad():
        truth = model(tokens)
    with pytest.warns(UserWarning, match="as called.*RuntimeError: operation not permitted") as caught:
        assert all(relative_error(engine(tokens), truth) < 1e-12 for _ in range(4))
    assert len(caught) == 1


@pytest.mark.parametrize("kind", [RuntimeError, torch.OutOfMemoryError])
def test_steps_that_cannot_be_recorded_are_tried_once_a_process_and_that_is_shown(kind, monkeypatch):
    tried = []

    def record(run, inputs):
        tried.append(1)
        raise kind("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs_module, "record", record)
    monkeypatch.setattr(engine_module, "recordable", lambda model: True)
    model, tokens = small_model("llama windows"), some_tokens(2, 7)
    truth = model.generate(tokens, 5)
    with pytest.warns(UserWarning, match="Decoding steps cannot be recorded"):
        # each generation has caches, and in the workbench an engine, of its own
        assert all(torch.equal(Engine(model).generate(tokens, 5), truth) for _ in range(3))
    # for want of memory it is tried again by the next generation, where there may be room
    assert len(tried) == (1 if kind is RuntimeError else 3)
    [message] = fallback_messages()
    assert message.startswith("Decoding steps cannot be recorded as CUDA graphs; they give the same numbers as called")


def test_the_steps_of_a_generation_are_recorded_with_its_first_cache_alone(recordings):
    model, tokens = small_model("llama windows"), some_tokens(2, 5)
    engine = Engine(model)
    with torch.no_grad():
        caches = caches_for(model.cfg.keys_visible, 9)
        engine(tokens[:, :3], caches=caches)
        assert [cache.graphs for cache in caches] == [None] * 3
        for at in (3, 4):
            engine(tokens[:, at : at + 1], last=True, caches=caches)
    assert [cache.graphs is None for cache in caches] == [False, True, True]
    assert recordings == [2]


def test_nothing_is_recorded_on_a_cpu_or_where_graphs_are_off(recordings, monkeypatch):
    model, tokens = small_model("llama windows"), some_tokens(2, 7)
    off = Engine(model, graphs=False)
    monkeypatch.setattr(engine_module, "recordable", recordable)
    on_cpu = Engine(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for engine in (off, on_cpu):
            for _ in range(3):
                engine(tokens)
    assert recordings == []
