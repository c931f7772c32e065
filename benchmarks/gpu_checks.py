"""Is composed attention right on this GPU? Random inputs, poisoned memory, the definition in float64 as the truth.

Imports torch and the numerical core alone.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import markdown_table
from model.backends import composed_attention
from model.backends.triton_backend import triton_second_layers
from model.functional import masked_softmax, visible
from model.mixing import Mixing, compose, second_layers

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Case:
    """One attention call. padding: how many of the first keys of the first sequence are padding."""

    queries: int
    d_head: int
    heads: int = 32
    batch: int = 1
    rank: int = 2
    groups: int = 1
    visible_keys: int | None = None
    query_start: int = 0
    padding: int | None = None
    static: bool = False
    sites: tuple[str, ...] = ("pre", "post")
    dtype: str = "bfloat16"

    def name(self) -> str:
        plain = Case(self.queries, self.d_head)
        changed = {key: value for key, value in vars(self).items() if value != getattr(plain, key)}
        return ", ".join([f"T={self.queries}, d={self.d_head}", *(f"{key}={value}" for key, value in changed.items())])


CASES = (
    Case(515, 128),
    Case(515, 80),
    Case(387, 80, dtype="float16"),
    Case(259, 80, dtype="float32"),
    Case(1, 128, query_start=1030),
    Case(1, 80, query_start=515, padding=100, batch=2),
    Case(643, 80, visible_keys=256),
    Case(515, 128, visible_keys=100, batch=2, padding=77),
    Case(131, 128, query_start=386, padding=200, batch=2),
    Case(131, 64, query_start=200, visible_keys=64, heads=16),
    Case(259, 96, heads=8, rank=1),
    Case(259, 64, heads=24, rank=3, groups=2),
    Case(195, 128, heads=8, static=True),
    Case(195, 64, sites=("post",)),
    Case(195, 64, sites=("pre",)),
    Case(1, 64, query_start=255, heads=16, groups=2, static=True),
)

Problem = tuple[Tensor, Tensor, Tensor, Mixing, Mixing, dict[str, Any]]


def problem(case: Case, device: torch.device, seed: int = 0) -> Problem:
    """Fresh random arguments of composed_attention: scores of spread about 1, mixing far from the identity."""
    generator = torch.Generator(device).manual_seed(seed)
    dtype, keys = DTYPES[case.dtype], case.query_start + case.queries

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    def site(name: str) -> Mixing:
        if name not in case.sites:
            return Mixing(case.heads, case.groups)
        size = case.heads // case.groups
        inner = (case.rank, case.heads) if case.groups == 1 else (case.groups, case.rank, size)
        fields: dict[str, Tensor] = {}
        for side, length in (("query", case.queries), ("key", keys)):
            fields[f"{side}_down"] = random(case.batch, length, *inner)
            fields[f"{side}_up"] = random(case.batch, length, *inner) * 0.2
            fields[f"{side}_gate"] = random(case.batch, length, case.heads).tanh()
        if case.static:
            fields["static"] = torch.block_diag(*(random(size, size) * 0.2 for _ in range(case.groups)))
        return Mixing(case.heads, case.groups, **fields)

    q = random(case.batch, case.queries, case.heads, case.d_head)
    k, v = (random(case.batch, keys, case.heads, case.d_head) for _ in range(2))
    options: dict[str, Any] = {"visible_keys": case.visible_keys, "query_start": case.query_start}
    if case.padding is not None:
        first = torch.tensor([case.padding] + [0] * (case.batch - 1), device=device)
        options["key_mask_BS"] = torch.arange(keys, device=device)[None] >= first[:, None]
    return q, k, v, site("pre"), site("post"), options


def with_whole_maps(given: Problem, dtype: torch.dtype, pattern_dtype: torch.dtype | None = None) -> Tensor:
    """The definition, maps and mixing in one dtype; the composed pattern may be rounded before it meets the values."""
    q, k, v, pre, post, options = given
    device, start = q.device, options["query_start"]
    queries, keys = torch.arange(start, start + q.shape[1], device=device), torch.arange(k.shape[1], device=device)
    seen = visible(queries, keys, options["visible_keys"])[None, None]
    if "key_mask_BS" in options:
        seen = seen & options["key_mask_BS"][:, None, None]
    raw = torch.einsum("btnk,bsnk->bnts", q.to(dtype), k.to(dtype)) * q.shape[-1] ** -0.5
    scores = compose(raw, pre.map(lambda factor: factor.to(dtype)))
    pattern = compose(
        masked_softmax(scores.masked_fill(~seen, float("-inf"))), post.map(lambda factor: factor.to(dtype))
    )
    if pattern_dtype is not None:
        pattern = pattern.to(pattern_dtype).to(dtype)
    return torch.einsum("bnts,bsnk->btnk", pattern, v.to(dtype))


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Every tensor that is made without a value is filled with NaN, so that what nobody writes shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]  # read by new tensors
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def relative_error(given: Tensor, truth: Tensor) -> float:
    """||given - truth|| / ||truth||, NaN if any element is."""
    return float((given.double() - truth).norm() / truth.norm())


@torch.no_grad()
def check(case: Case, backend: str, device: torch.device) -> tuple[float, float, bool]:
    """Relative error of a backend; of float32 whole maps with one rounding of pattern and output; is it good enough?"""
    given = problem(case, device)
    truth = with_whole_maps(given, torch.float64)
    dtype = given[0].dtype
    rounded = with_whole_maps(given, torch.float32, dtype).to(dtype)
    q, k, v, pre, post, options = given
    with poisoned_memory(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="The Triton kernels")  # no fallback in a check
        z = composed_attention(q, k, v, pre, post, backend=backend, **options)
    error, plain = relative_error(z, truth), relative_error(rounded, truth)
    return error, plain, error <= max(2 * plain, 2e-6)


@torch.no_grad()
def check_networks(device: torch.device, tokens: int = 515) -> tuple[float, float, bool]:
    """The same of the mixing networks' second layers: the worst of all factors, beside PyTorch's own functions."""
    generator = torch.Generator(device).manual_seed(0)
    sizes = (1, tokens, 4 * 128), (1, tokens, 4 * 32), (4, 1, 128, 4, 32)
    given = [torch.randn(size, generator=generator, device=device).bfloat16() for size in sizes]
    truth = second_layers(*(tensor.double() for tensor in given))

    def worst(layers: list[tuple[Tensor, Tensor, Tensor]]) -> float:
        pairs = zip([x for network in layers for x in network], [x for network in truth for x in network], strict=True)
        return max(relative_error(mine, right) for mine, right in pairs)

    with poisoned_memory(), warnings.catch_warnings():
        warnings.filterwarnings("error", message="The Triton kernels")
        error = worst(triton_second_layers(*given))
    plain = worst(second_layers(*given))
    return error, plain, error <= 2 * plain


def check_or_fail(case: Case, backend: str, device: torch.device) -> tuple[float, float, bool]:
    """check, where a kernel that does not run is one case gone wrong."""
    try:
        return check(case, backend, device)
    except Exception:
        print(f"{case.name()}:", traceback.format_exc(), flush=True)
        return float("nan"), float("nan"), False


def check_all(backend: str, device: torch.device, say: Callable[[str], None] = print) -> bool:
    """Print a table of errors of every case; True if all are good enough.

    Cases run in several processes: nearly all of their time is compiling.
    """
    rows, good = [], True
    with multiprocessing.get_context("spawn").Pool(min(len(CASES), os.cpu_count() or 1)) as pool:
        results = pool.starmap(check_or_fail, [(case, backend, device) for case in CASES], chunksize=1)
    for case, (error, plain, fine) in zip(CASES, results, strict=True):
        good &= fine
        rows.append([case.name(), f"{error:.2e}", f"{plain:.2e}", "yes" if fine else "NO"])
    error, plain, fine = check_networks(device)
    good &= fine
    rows.append(["mixing networks, T=515", f"{error:.2e}", f"{plain:.2e}", "yes" if fine else "NO"])
    again = [check(CASES[0], backend, device)[0] for _ in range(2)]
    say(markdown_table(["relative error against float64", backend, "float32 maps, rounded once", "good"], rows))
    say(f"the same inputs three times: {rows[0][1]} {again[0]:.2e} {again[1]:.2e}")
    return good
