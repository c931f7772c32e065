"""Every backend of composed attention against its definition: whole maps by mixing.compose, in float64."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks.timing import peak_memory
from model import backends
from model.backends import BACKENDS, composed_attention, set_default_backend, using_backend
from model.backends import compiled as compiled_backend
from model.backends import eager as eager_backend
from model.backends.blocks import visible_pairs
from model.backends.eager import visibility
from model.backends.fallbacks import fallback_messages
from model.functional import masked_softmax
from model.mixing import Mixing, compose
from tests.models import relative_error

B, N, K = 2, 4, 6
LENGTH, BLOCK = 37, 16  # a length that no block size divides
CPU = torch.device("cpu")


class Case(NamedTuple):
    """Arguments of composed_attention, and which of them ask for gradients."""

    q: Tensor
    k: Tensor
    v: Tensor
    pre: Mixing
    post: Mixing
    options: dict[str, Any]

    def to(self, dtype: torch.dtype) -> Case:
        def leaf(x: Tensor) -> Tensor:
            return x.detach().to(dtype).requires_grad_()

        return Case(leaf(self.q), leaf(self.k), leaf(self.v), self.pre.map(leaf), self.post.map(leaf), self.options)

    def leaves(self) -> dict[str, Tensor]:
        named = {"q": self.q, "k": self.k, "v": self.v}
        for site, mixing in (("pre", self.pre), ("post", self.post)):
            named |= {f"{site}.{name}": factor for name, factor in mixing.factors().items()}
            if mixing.static is not None:
                named[f"{site}.static"] = mixing.static
        return named


def make_case(
    *, sites=("pre", "post"), sides=("query", "key"), rank=2, groups=1, static=False, queries=LENGTH, query_start=0,
    padding=None, batch=B, heads=N, **options: Any,
) -> Case:  # fmt: skip
    """Random inputs; padding gives how many of the first keys of each sequence are padding."""
    generator = torch.Generator().manual_seed(7)
    keys = query_start + queries

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def site(name: str) -> Mixing:
        fields = {}
        for side, length in (("query", queries), ("key", keys)):
            if name in sites and side in sides:
                shape = (batch, length, rank, heads) if groups == 1 else (batch, length, groups, rank, heads // groups)
                fields |= {f"{side}_down": random(*shape), f"{side}_up": random(*shape) / 2}
                fields[f"{side}_gate"] = random(batch, length, heads).tanh()
        if name in sites and static:
            fields["static"] = torch.block_diag(*random(groups, heads // groups, heads // groups))
        return Mixing(n_heads=heads, groups=groups, **fields)

    if padding is not None:
        options["key_mask_BS"] = torch.arange(keys)[None] >= torch.tensor(padding)[:, None]
    q, k, v = random(batch, queries, heads, K), random(batch, keys, heads, K), random(batch, keys, heads, K)
    return Case(q, k, v, site("pre"), site("post"), {"query_start": query_start, **options}).to(torch.float64)


def definition(case: Case) -> Tensor:
    """Composed attention with whole maps."""
    seen = visibility(
        case.q.shape[1], case.k.shape[1], case.options.get("visible_keys"), case.options["query_start"],
        case.options.get("key_mask_BS"), CPU,
    )  # fmt: skip
    raw = torch.einsum("btnk,bsnk->bnts", case.q, case.k) / K**0.5
    pattern = masked_softmax(compose(raw, case.pre).masked_fill(~seen, float("-inf")))
    return torch.einsum("bnts,bsnk->btnk", compose(pattern, case.post), case.v)


def run(case: Case, backend: str | None, block: int | None = BLOCK) -> Tensor:
    return composed_attention(*case[:5], **case.options, backend=backend, block_queries=block)


def hold_to_definition(case: Case, backend: str, dtype: torch.dtype, tolerance: float, block: int | None = BLOCK):
    """Values and the gradient of every input, static W included."""
    truth, given = definition(case), run(case.to(dtype), backend, block)
    assert given.dtype == dtype
    assert relative_error(given, truth) < tolerance
    direction = torch.randn(truth.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    true_leaves, leaves = case.leaves(), (narrow := case.to(dtype)).leaves()
    true_gradients = torch.autograd.grad(truth, list(true_leaves.values()), direction)
    gradients = torch.autograd.grad(run(narrow, backend, block), list(leaves.values()), direction.to(dtype))
    for name, gradient, true_gradient in zip(leaves, gradients, true_gradients, strict=True):
        # with one visible key the softmax is 1 whatever the scores, and the true gradients of q and k are 0
        scale = max(1.0, float(true_gradient.norm()))
        assert float((gradient.double() - true_gradient).norm()) < tolerance * scale, name


TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}

CASES: dict[str, dict[str, Any]] = {
    "both sites": {},
    "pre only": {"sites": ("pre",)},
    "post only": {"sites": ("post",)},
    "query side": {"sides": ("query",)},
    "key side": {"sides": ("key",)},
    "key side, static": {"sides": ("key",), "static": True},
    "talking heads": {"sides": (), "static": True},
    "static and dynamic": {"static": True},
    "rank 1": {"rank": 1},
    "rank 3": {"rank": 3},
    "two groups": {"groups": 2, "static": True},
    "two groups, key side of post": {"groups": 2, "sides": ("key",), "sites": ("post",)},
    "window 1": {"visible_keys": 1},
    "window 5": {"visible_keys": 5},
    "window longer than the text": {"visible_keys": 50},
    "padding": {"padding": (3, 0)},
    "padding and window": {"padding": (0, 7), "visible_keys": 4},
    "a whole sequence of padding": {"padding": (LENGTH, 2)},
    "cached keys": {"queries": 18, "query_start": 11},
    "cached keys, window": {"queries": 18, "query_start": 11, "visible_keys": 6},
    "cached keys, padding": {"queries": 18, "query_start": 11, "padding": (4, 13)},
    "one query": {"queries": 1, "query_start": 22},
    "one query, two groups, window": {"queries": 1, "query_start": 22, "visible_keys": 9, "groups": 2, "static": True},
    "one query, padding": {"queries": 1, "query_start": 22, "padding": (5, 23)},
    "one query, key side of post": {"queries": 1, "query_start": 22, "sides": ("key",), "sites": ("post",)},
    "one token": {"queries": 1},
    "plain": {"sites": ()},
    "plain, window": {"sites": (), "visible_keys": 5},
    "plain, padding": {"sites": (), "padding": (3, 0)},
    "plain, a whole sequence of padding": {"sites": (), "padding": (LENGTH, 2), "visible_keys": 6},
    "plain, cached keys": {"sites": (), "queries": 18, "query_start": 11},
    "plain, one query": {"sites": (), "queries": 1, "query_start": 22, "visible_keys": 9},
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_eager_blocks_equal_the_definition_in_values_and_gradients(name, dtype):
    hold_to_definition(make_case(**CASES[name]), "eager", dtype, TOLERANCE[dtype])


@pytest.mark.parametrize("block", [None, 1, LENGTH, 100])
def test_the_size_of_a_block_changes_nothing(block):
    hold_to_definition(make_case(visible_keys=9, padding=(2, 0)), "eager", torch.float64, 1e-10, block)


needs_compiler = pytest.mark.skipif(not compiled_backend.compiler_found("cpu"), reason="no C++ compiler")


@needs_compiler
def test_two_compiled_graphs_serve_every_length_window_padding_and_cache():
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    for options in (
        {},
        {"queries": 50},
        {"queries": 7},
        {"queries": 61, "visible_keys": 5},
        {"padding": (LENGTH, 3)},
        {"queries": 18, "query_start": 31, "visible_keys": 20},
        {"batch": 3},
    ):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Composed attention")
            hold_to_definition(make_case(static=True, **options), "compiled", torch.float64, 1e-10)
    assert graphs["unique_graphs"] - before == 2


@needs_compiler
def test_compiled_blocks_of_grouped_heads_equal_the_definition():
    case = make_case(groups=2, sites=("post",))
    with torch.no_grad():
        assert relative_error(run(case.to(torch.float32), "compiled"), definition(case)) < 1e-5


def test_half_precision_inputs_are_mixed_in_float32():
    for options in ({}, {"queries": 1, "query_start": 9}):
        case = make_case(**options).to(torch.bfloat16)
        given = run(case, "eager")
        assert given.dtype == torch.bfloat16
        # one rounding of the output: a bfloat16 has 8 significant bits
        assert relative_error(given, definition(case.to(torch.float64))) < 2**-8


def test_gradients_of_padding_are_zero_and_never_nan():
    case = make_case(padding=(LENGTH, 4))
    gradients = torch.autograd.grad(run(case, "eager").sum(), list(leaves := case.leaves().values()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert not run(case, "eager")[0].any()
    assert len(gradients) == len(leaves)
    assert not gradients[1][1, :4].any()  # k of the padded positions


def test_peak_memory_grows_with_the_length_and_not_with_its_square():
    def peak(length: int) -> int:
        case = make_case(queries=length, batch=1).to(torch.float32)

        def step() -> None:
            run(case, "eager").sum().backward()

        step()
        return peak_memory(step, CPU)

    short, long = peak(512), peak(1024)
    assert long / short < 2.6
    assert long < N * 1024**2 * 4  # one whole map in float32


@pytest.mark.parametrize("window", [None, 1, 8, 24])
def test_keys_outside_the_window_and_after_a_block_are_never_computed(window, monkeypatch):
    cells = []
    original = eager_backend.attend_block

    def counted(block, seen):
        cells.append(seen.shape[-1] * seen.shape[-2])
        return original(block, seen)

    monkeypatch.setattr(eager_backend, "attend_block", counted)
    monkeypatch.setitem(eager_backend.BLOCK_CELLS, "cpu", N * 200 * 10)
    run(make_case(queries=200, batch=1, visible_keys=window), "eager", block=None)
    if window is None:
        assert sum(cells) < 1.1 * visible_pairs(200, None, 0)
    else:
        assert sum(cells) <= 200 * (window + max(16, window))


def test_visible_pairs_counts_what_the_mask_leaves():
    for queries, window, start in ((7, None, 0), (7, 3, 0), (5, 4, 2), (6, 20, 3), (4, 1, 9)):
        seen = visibility(queries, start + queries, window, start, None, CPU)
        assert visible_pairs(queries, window, start) == int(seen.sum())


def test_a_failed_compilation_warns_once_and_gives_the_same_numbers(monkeypatch):
    def no_compiler(function):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(compiled_backend, "_graph", no_compiler)
    monkeypatch.setattr(compiled_backend, "_failed_on", set())
    case = make_case(visible_keys=11)
    with pytest.warns(UserWarning, match=r"could not be compiled for cpu.*no compiler here") as caught:
        hold_to_definition(case, "compiled", torch.float64, 1e-10)
    assert len(caught) == 1
    assert str(caught[0].message) in fallback_messages()  # for those who come later


def record_backends(monkeypatch) -> list[str]:
    """Replace every backend by one that only notes its name in the list returned."""
    used: list[str] = []
    for name in list(BACKENDS):
        monkeypatch.setitem(BACKENDS, name, lambda q, *rest, name=name: used.append(name) or q)
    return used


def test_auto_compiles_large_calls_only(monkeypatch):
    used = record_backends(monkeypatch)
    monkeypatch.setattr(backends, "compiler_found", lambda device: True)
    case = make_case()
    cells = B * N * visible_pairs(LENGTH, None, 0)
    for threshold in (cells + 1, cells):
        monkeypatch.setattr(backends, "AUTO_COMPILES_FROM", threshold)
        run(case, "auto")
    monkeypatch.setattr(backends, "compiler_found", lambda device: False)
    run(case, "auto")
    assert used == ["eager", "compiled", "eager"]


def test_the_default_backend_is_chosen_for_the_process_or_a_with_block(monkeypatch):
    monkeypatch.setattr(backends, "_default", "auto")
    used = record_backends(monkeypatch)
    case = make_case()
    with using_backend("compiled"):
        run(case, None)
    run(case, None)
    set_default_backend("compiled")
    with using_backend("auto"):
        run(case, None)
    run(case, None)
    assert used == ["compiled", "eager", "eager", "compiled"]


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match=r"Unknown attention backend 'cuda'. Choose one of auto, eager, compiled"):
        set_default_backend("cuda")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(B, LENGTH, N + 1, K)}, "must be .batch, pos, head, d_head. and differ in length only"),
        ({"pre": Mixing(n_heads=5)}, "pre mixing was made for 5 heads, the queries have 4"),
        ({"post": make_case(queries=9).post}, r"query factors of the post mixing .* \[2, 37\], got \[2, 9\]"),
        ({"options": {"query_start": 3}}, "37 queries from position 3 need 40 keys, got 37"),
        ({"options": {"key_mask_BS": torch.ones(B, 5, dtype=torch.bool)}}, r"= \[2, 37\], got \[2, 5\]"),
    ],
)
def test_arguments_that_do_not_belong_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        run(make_case()._replace(**change), "eager")
