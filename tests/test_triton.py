"""The Triton kernels, run by Triton's interpreter on the CPU, against the definition of composed attention."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

pytest.importorskip("triton", reason="Triton is made for Linux only")

from model import Engine
from model import engine as engine_module
from model.backends import compiled as compiled_backend
from model.backends import triton_backend, triton_memory
from model.backends import triton_decode as decode_backend
from model.backends import triton_prefill as prefill_backend
from model.backends.triton_backend import triton_second_layers
from model.backends.triton_memory import prefill_bytes, single_query_bytes
from model.backends.triton_prefill import Tiles, prefill, split_width, tiles_for
from model.fused_step import fused_inputs
from model.key_cache import caches_for
from model.mixing import second_layers
from tests.models import VARIANTS, relative_error, small_model, some_tokens
from tests.test_backends import CASES, LENGTH, N, definition, hold_to_definition, make_case, run
from tests.test_structure import ROOT

MIXED = [name for name in CASES if "plain" not in name]


@pytest.fixture(autouse=True)
def no_fallback_and_no_compiler(monkeypatch):
    """A kernel that fails is an error here; the backward pass's blocks run as they are, not as compiled graphs."""
    monkeypatch.setattr(compiled_backend, "_graph", lambda function: function)
    monkeypatch.setattr(triton_backend, "_failed_on", set())
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The Triton kernels")
        yield


@pytest.mark.parametrize("name", MIXED)
def test_kernels_equal_the_definition_in_values_and_gradients(name):
    # with one visible key the gradients of q and k are 0 only as far as two ways to round a score agree
    tolerance = 1e-3 if name == "window 1" else 1e-5
    batch = {} if "padding" in CASES[name] else {"batch": 1}  # the interpreter runs one program after another
    hold_to_definition(make_case(**(batch | CASES[name])), "triton", torch.float32, tolerance)


@pytest.mark.parametrize("name", [name for name in MIXED if name.startswith("one ")])
def test_the_decoding_kernels_equal_the_definition(name):
    with torch.no_grad():
        case = make_case(**CASES[name])
        assert relative_error(run(case.to(torch.float32), "triton"), definition(case)) < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"padding": (5, 80)},
        {"heads": 6, "groups": 2, "static": True, "rank": 3},  # a group of three heads: no power of two
        {"sides": ("query",), "visible_keys": 110},
    ],
)
def test_keys_that_one_step_of_a_program_cannot_hold_take_more_steps(options, monkeypatch):
    monkeypatch.setattr(decode_backend, "MOST_SPLITS", 3)
    case = make_case(queries=1, query_start=130, **options)
    with torch.no_grad():
        assert relative_error(run(case.to(torch.float32), "triton"), definition(case)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_costs_a_rounding_of_the_patterns_and_one_of_the_output(dtype):
    for options in ({}, {"queries": 1, "query_start": 9}):
        with torch.no_grad():
            case = make_case(**options).to(dtype)
            given = run(case, "triton")
            assert given.dtype == dtype
            assert relative_error(given, definition(case.to(torch.float64))) < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("rank", "groups"), [(1, 1), (3, 2), (4, 1)])
def test_factors_that_share_a_word_are_read_as_they_are(rank, groups, dtype):
    case = make_case(queries=19, batch=1, rank=rank, groups=groups, heads=4).to(torch.float32)
    q, k, v, pre, post = case[:5]
    pre, post = (site.map(lambda factor: factor.to(dtype)) for site in (pre, post))
    with torch.no_grad():
        apart = prefill(q, k, v, pre.map(torch.Tensor.float), post.map(torch.Tensor.float), None, 0, None)[0]
        assert torch.equal(prefill(q, k, v, pre, post, None, 0, None)[0], apart)


@pytest.mark.parametrize("window", [None, 9])
def test_chunks_of_queries_and_sequences_change_nothing(window):
    case = make_case(visible_keys=window, queries=41, padding=(3, 25))
    narrow = case.to(torch.float32)
    arguments = *narrow[:5], window, 0, narrow.options["key_mask_BS"]
    block = tiles_for(41, 41, torch.float32).queries
    with torch.no_grad():
        truth = definition(case)
        for held in (1, 2 * block * N * 64 * 4, 2**40):
            z, logs = prefill(*arguments, with_log_divisors=True, scratch_bytes=held)
            assert relative_error(z, truth) < 1e-6
            assert logs is not None
            assert torch.isinf(logs).sum() == N * 28  # queries on padding see no key


def test_tiles_of_every_kernel_may_differ():
    case = make_case(queries=45, batch=1)
    narrow = case.to(torch.float32)
    tiles = Tiles(queries=32, keys=32, pattern_queries=16, pattern_keys=8, value_keys=16)
    with torch.no_grad():
        z, _ = prefill(*narrow[:5], None, 0, None, tiles=tiles)
        assert relative_error(z, definition(case)) < 1e-6


def test_maps_are_written_before_they_are_read(monkeypatch):
    def poisoned(self, *shape, **options):
        return original(self, *shape, **options).fill_(float("nan"))

    original = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    for window, static in ((None, False), (5, True)):
        case = make_case(visible_keys=window, static=static)
        with torch.no_grad():
            z, _ = prefill(*case.to(torch.float32)[:5], window, 0, None)
            assert relative_error(z, definition(case)) < 1e-6


def wide(x, width=16):
    """The same rows, each twice or more beside itself: descriptors read widths that are powers of two."""
    return x.repeat(1, 1, 1, width)[..., :width]


@pytest.mark.parametrize(
    "options", [{"padding": (5, 36), "query_start": 3}, {"visible_keys": 9, "static": True, "batch": 1}]
)
def test_queries_and_keys_read_by_descriptors_change_nothing(options, monkeypatch):
    case, described = make_case(queries=35, **options), []
    case = case._replace(q=wide(case.q), k=wide(case.k), v=wide(case.v))
    monkeypatch.setattr(prefill_backend, "descriptors_read", lambda *tensors: described.append(1) or True)
    with torch.no_grad():
        assert relative_error(run(case.to(torch.float32), "triton"), run(case, "eager")) < 1e-6
    assert described


def test_scratch_does_not_grow_with_the_square_of_the_length(monkeypatch):
    def counted(self, *shape, **options):
        result = original(self, *shape, **options)
        sizes.append(result.nbytes)
        return result

    original = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", counted)
    largest = {}
    for length in (32, 128):
        sizes: list[int] = []
        case = make_case(queries=length, batch=1, heads=1).to(torch.float32)
        with torch.no_grad():
            prefill(*case[:5], None, 0, None, scratch_bytes=2**13)
        largest[length] = max(sizes)
    assert largest[128] <= 2 * largest[32]


@pytest.mark.parametrize("queries", [1, 70])
def test_what_the_kernels_make_is_what_the_plan_says(queries, monkeypatch):
    def counted(self, *shape, **options):
        result = original(self, *shape, **options)
        sizes.append(result.nbytes)
        return result

    sizes: list[int] = []
    original = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", counted)
    monkeypatch.setattr(triton_memory, "TILE", 32)  # as in the interpreter
    case = make_case(queries=queries, batch=2, query_start=57).to(torch.float32)
    heads, d_head = case.q.shape[2:]
    keys = queries + 57
    with torch.no_grad():
        run(case, "triton")
    if queries == 1:
        planned = single_query_bytes(2, keys, heads, d_head, torch.float32)
    else:
        planned = prefill_bytes(
            2, queries, keys, heads, d_head, 2, query_sides=2, key_sides=2, dtype=torch.float32
        )  # fmt: skip
    assert 0.7 * planned < sum(sizes) <= planned


@pytest.mark.parametrize(
    ("width", "parts"), [(6, (16, 0)), (64, (64, 0)), (80, (64, 16)), (96, (64, 32)), (112, (64, 64))]
)
def test_a_width_is_covered_by_powers_of_two(width, parts):
    assert split_width(width) == parts


def test_wide_heads_whose_width_is_no_power_of_two(monkeypatch):
    from tests import test_backends

    monkeypatch.setattr(test_backends, "K", 40)
    case = make_case(queries=20, heads=8, batch=1)
    with torch.no_grad():
        assert relative_error(run(case.to(torch.float32), "triton"), definition(case)) < 1e-6


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_the_engine_are_the_hooked_models(variant):
    model, tokens = small_model(variant), some_tokens(1, 19)
    with torch.no_grad():
        truth = model(tokens)
    narrow = Engine(model.to(torch.float32), backend="triton")
    assert relative_error(narrow(tokens), truth) < 1e-5


def test_greedy_continuation_is_the_hooked_models_beyond_the_window_too():
    model, tokens = small_model("llama windows").to(torch.float32), some_tokens(2, 4)
    assert torch.equal(Engine(model, backend="triton").generate(tokens, 9), model.generate(tokens, 9))


def test_double_precision_runs_in_eager_blocks():
    hold_to_definition(make_case(visible_keys=9), "triton", torch.float64, 1e-10)


def test_a_failing_kernel_warns_once_and_gives_the_same_numbers(monkeypatch):
    def failing(*arguments, **options):
        raise RuntimeError("out of resource: shared memory\nRequired: 300000")

    monkeypatch.setattr(prefill_backend, "prefill", failing)
    case = make_case(visible_keys=11)
    with pytest.warns(UserWarning, match=r"cannot run on cpu.*RuntimeError: out of resource: shared memory$") as caught:
        hold_to_definition(case, "triton", torch.float32, 1e-5)
    assert len(caught) == 1


def test_running_out_of_memory_is_not_taken_for_a_failing_kernel(monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(prefill_backend, "prefill", full)
    with pytest.raises(torch.OutOfMemoryError), torch.no_grad():
        run(make_case().to(torch.float32), "triton")


def test_the_core_runs_without_transformer_lens_and_triton_is_imported_only_by_a_call():
    code = (
        "import sys; sys.modules['transformer_lens'] = None\n"
        "import importlib.util as u; u.find_spec = lambda name, found=u.find_spec: "
        "None if name == 'transformer_lens' else found(name)\n"
        "import model.backends; assert 'triton' not in sys.modules\n"
        "try:\n    from model import Engine\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("model.Engine needs transformer_lens, which is not installed")


def test_lengths_are_not_multiples_of_any_tile():
    tiles = tiles_for(LENGTH, LENGTH, torch.float32)
    assert all(LENGTH % size for size in (tiles.queries, tiles.keys, tiles.pattern_queries, tiles.pattern_keys))


@pytest.mark.parametrize(
    ("queries", "keys", "small"), [(512, 256, True), (2048, 1024, False), (2048, 256, True), (16384, 256, False)]
)
def test_calls_with_few_tiles_take_smaller_ones(monkeypatch, queries, keys, small):
    monkeypatch.setattr(prefill_backend, "INTERPRETED", prefill_backend.INTERPRETED.__class__(False))
    tiles = tiles_for(queries, keys, torch.bfloat16)
    assert (tiles.keys == 32) == small
    assert (
        tiles.queries % tiles.pattern_queries == tiles.keys % tiles.pattern_keys == tiles.keys % tiles.value_keys == 0
    )


FUSED = {"llama windows": {}, "neox": {"n_layers": 1}, "rank 1": {"n_layers": 1}}
UNFUSED = {"rank 3": {"visible_keys": (2,)}, "query side": {}, "static and dynamic": {}}


@pytest.mark.parametrize("variant", [*FUSED, *UNFUSED])
def test_the_engines_steps_are_the_hooked_models_and_fused_where_a_layer_allows_it(variant, monkeypatch):
    monkeypatch.setattr(engine_module, "recordable", lambda model: True)
    fused = []
    monkeypatch.setattr(engine_module, "fused_inputs", lambda *given: fused.append(1) or fused_inputs(*given))
    changes = FUSED[variant] if variant in FUSED else {"n_layers": 1} | UNFUSED[variant]
    model, tokens = small_model(variant, **changes), some_tokens(2, 6)
    mask = torch.arange(6) >= torch.tensor([[2], [0]])
    with torch.no_grad():
        truth = model(tokens, attention_mask=mask)
        engine = Engine(model.to(torch.float32), backend="triton", graphs=False)
        caches = caches_for(model.cfg.keys_visible, 6)
        engine(tokens[:, :4], attention_mask=mask[:, :4], caches=caches)
        for at in (4, 5):
            given = engine(tokens[:, at : at + 1], last=True, attention_mask=mask[:, : at + 1], caches=caches)
            assert relative_error(given, truth[:, at]) < 1e-5
    assert len(fused) == (2 * model.cfg.n_layers if variant in FUSED else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_second_layers_of_mixing_networks_are_one_launch_and_the_same_numbers(dtype, monkeypatch):
    torch.manual_seed(3)
    sizes = (2, 37, 4 * 16), (2, 37, 4 * 8), (4, 1, 16, 4, 8)
    given = [torch.randn(size).to(dtype) for size in sizes]
    truth = second_layers(*(tensor.double() for tensor in given))
    monkeypatch.setattr(triton_backend, "second_layers", None)  # not PyTorch's own functions
    for found, right in zip(triton_second_layers(*given), truth, strict=True):
        for mine, wanted in zip(found, right, strict=True):
            assert mine.dtype == dtype
            assert relative_error(mine, wanted) < torch.finfo(dtype).eps


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        ((4, 2, 16, 4, 4), torch.float32),
        ((2, 1, 24, 4, 8), torch.float32),
        ((4, 1, 16, 6, 8), torch.float32),
        ((4, 1, 16, 4, 8), torch.float64),
    ],
    ids=["groups", "width", "rank", "float64"],
)
def test_second_layers_that_the_kernel_does_not_hold_are_pytorchs(size, dtype):
    C, G, K, _, N = size
    given = [torch.randn(size).to(dtype) for size in ((1, 9, C * G * K), (1, 9, C * G * N), size)]
    for found, right in zip(triton_second_layers(*given), second_layers(*given), strict=True):
        assert all(torch.equal(mine, wanted) for mine, wanted in zip(found, right, strict=True))
