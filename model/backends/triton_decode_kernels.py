"""Triton kernels of composed attention of one query a sequence. Imports torch and triton alone.

Axes in comments: B batch, S key, H all heads, G group, N heads of a group (padded to a power of two), R rank, K d_head.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from model.backends.triton_factor_kernels import INTERPRETED, LEAST_PEAK, LOWEST


@triton.jit
def wait_for_previous(PDL: tl.constexpr):
    """With programmatic dependent launch a kernel starts while the one before it ends: this waits for its results."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def mix(
    maps, exists, key, head, query_down, query_up, query_gate, key_down, key_up, key_gate, static,
    query_r, key_s, key_r, gate_s,
    HEADS: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    HAS_QUERY: tl.constexpr, HAS_KEY: tl.constexpr, HAS_STATIC: tl.constexpr,
):  # fmt: skip
    """Mix maps [key, N]. Pointers stand at the sequence and group; head counts within the group, padded."""
    out = maps
    in_group = head < N
    if HAS_QUERY:
        out += maps * tl.load(query_gate + head, mask=in_group, other=0.0).to(tl.float32)[None, :]
        for r in tl.static_range(RANK):
            down = tl.load(query_down + r * query_r + head, mask=in_group, other=0.0).to(tl.float32)
            up = tl.load(query_up + r * query_r + head, mask=in_group, other=0.0).to(tl.float32)
            out += tl.sum(maps * down[None, :], 1)[:, None] * up[None, :]
    if HAS_KEY:
        at = key[:, None] * gate_s + head[None, :]
        out += maps * tl.load(key_gate + at, mask=exists, other=0.0).to(tl.float32)
        at = key[:, None] * key_s + head[None, :]
        for r in tl.static_range(RANK):
            down = tl.load(key_down + at + r * key_r, mask=exists, other=0.0).to(tl.float32)
            up = tl.load(key_up + at + r * key_r, mask=exists, other=0.0).to(tl.float32)
            out += tl.sum(maps * down, 1)[:, None] * up
    if HAS_STATIC:
        # W [source, target], read as [target, source] so that the sum over sources is the last axis
        pair = head[None, :] * HEADS + head[:, None]
        weight = tl.load(static + pair, mask=in_group[None, :] & in_group[:, None], other=0.0)
        out += tl.sum(maps[:, None, :] * weight[None, :, :], 2)
    return out


@triton.jit
def decode_score_kernel(
    q, k, query_down, query_up, query_gate, key_down, key_up, key_gate, static, key_mask, scores, peaks, sums,
    keys, scale_log2, q_b, q_h, k_b, k_s, k_h, query_b, query_g, query_r, gate_b, key_b, key_s, key_g, key_r,
    key_gate_b, key_gate_s,
    GROUPS: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, RANK: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    STEP: tl.constexpr, STEPS: tl.constexpr, HAS_QUERY: tl.constexpr, HAS_KEY: tl.constexpr,
    HAS_STATIC: tl.constexpr, HAS_MASK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Composed scores of STEPS x STEP keys and all heads of a group, [B, S, H], with each head's peak and sum of
    exponentials [B, split, H]. query_b etc. are the strides of down and up, gate_b etc. those of gates."""
    wait_for_previous(PDL)
    HEADS: tl.constexpr = GROUPS * N
    split = tl.program_id(0)
    batch = (tl.program_id(1) // GROUPS).to(tl.int64)
    group = tl.program_id(1) % GROUPS
    head, d = tl.arange(0, NP), tl.arange(0, DP)
    in_group = head < N

    # a row is a head of a key: heads of one key stand next to each other, and so do their rows in memory
    row = tl.arange(0, STEP * NP)
    row_head, row_key = row % NP, row // NP
    inside = (row_head < N)[:, None] & (d < D)[None, :]
    q_at = q + batch * q_b + (group * N + row_head)[:, None] * q_h + d[None, :]
    query = tl.load(q_at, mask=inside, other=0.0).to(tl.float32)
    k += batch * k_b + group * N * k_h
    query_down += batch * query_b + group * query_g
    query_up += batch * query_b + group * query_g
    query_gate += batch * gate_b + group * N
    key_down += batch * key_b + group * key_g
    key_up += batch * key_b + group * key_g
    key_gate += batch * key_gate_b + group * N
    static += group * N * HEADS + group * N

    highest = tl.full([NP], LEAST_PEAK, tl.float32)
    total = tl.zeros([NP], tl.float32)
    for step in range(STEPS):
        key = (split * STEPS + step) * STEP + tl.arange(0, STEP)
        of_row = (split * STEPS + step) * STEP + row_key
        seen, row_seen = key < keys, of_row < keys
        if HAS_MASK:
            seen = seen & (tl.load(key_mask + batch * keys + key, mask=seen, other=0) != 0)
            row_seen = row_seen & (tl.load(key_mask + batch * keys + of_row, mask=row_seen, other=0) != 0)
        exists = seen[:, None] & in_group[None, :]
        k_at = k + (of_row.to(tl.int64) * k_s + row_head * k_h)[:, None] + d[None, :]
        keys_in = tl.load(k_at, mask=row_seen[:, None] & inside, other=0.0).to(tl.float32)
        raw = tl.reshape(tl.sum(keys_in * query, 1), [STEP, NP])
        mixed = mix(
            raw, exists, key.to(tl.int64), head, query_down, query_up, query_gate, key_down, key_up, key_gate, static,
            query_r, key_s, key_r, key_gate_s, HEADS, N, RANK, HAS_QUERY, HAS_KEY, HAS_STATIC,
        )  # fmt: skip
        mixed = tl.where(seen[:, None], mixed * scale_log2, LOWEST)
        peak = tl.maximum(highest, tl.max(mixed, 0))
        total = total * tl.exp2(highest - peak) + tl.sum(tl.exp2(mixed - peak[None, :]), 0)
        highest = peak
        cell = (batch * keys + key[:, None]) * HEADS + group * N + head[None, :]
        tl.store(scores + cell, mixed, mask=(key < keys)[:, None] & in_group[None, :])
    at = (batch * tl.num_programs(0) + split) * HEADS + group * N + head
    tl.store(peaks + at, highest, mask=in_group)
    tl.store(sums + at, total, mask=in_group)


@triton.jit
def decode_pattern_kernel(
    query_down, query_up, query_gate, key_down, key_up, key_gate, static, scores, peaks, sums,
    keys, splits, query_b, query_g, query_r, gate_b, key_b, key_s, key_g, key_r, key_gate_b, key_gate_s,
    GROUPS: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, RANK: tl.constexpr, BLOCK: tl.constexpr,
    SPLITS: tl.constexpr, HAS_QUERY: tl.constexpr, HAS_KEY: tl.constexpr, HAS_STATIC: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Composed patterns of BLOCK keys and all heads of a group, in the place of their scores."""
    wait_for_previous(PDL)
    HEADS: tl.constexpr = GROUPS * N
    batch = (tl.program_id(1) // GROUPS).to(tl.int64)
    group = tl.program_id(1) % GROUPS
    head, every = tl.arange(0, NP), tl.arange(0, SPLITS)
    in_group = head < N

    at = (batch * splits + every[:, None]) * HEADS + group * N + head[None, :]
    given = (every < splits)[:, None] & in_group[None, :]
    peak = tl.load(peaks + at, mask=given, other=LEAST_PEAK)
    highest = tl.max(peak, 0)
    total = tl.sum(tl.load(sums + at, mask=given, other=0.0) * tl.exp2(peak - highest[None, :]), 0)
    # a sequence that sees no key has scores far below its peak: exponentials, and so its pattern, of 0
    scale = 1.0 / tl.where(total == 0.0, 1.0, total)

    key = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = (key < keys)[:, None] & in_group[None, :]
    cell = scores + (batch * keys + key[:, None]) * HEADS + group * N + head[None, :]
    pattern = tl.exp2(tl.load(cell, mask=exists, other=LOWEST) - highest[None, :]) * scale[None, :]
    composed = mix(
        pattern, exists, key.to(tl.int64), head,
        query_down + batch * query_b + group * query_g, query_up + batch * query_b + group * query_g,
        query_gate + batch * gate_b + group * N,
        key_down + batch * key_b + group * key_g, key_up + batch * key_b + group * key_g,
        key_gate + batch * key_gate_b + group * N, static + group * N * HEADS + group * N,
        query_r, key_s, key_r, key_gate_s, HEADS, N, RANK, HAS_QUERY, HAS_KEY, HAS_STATIC,
    )  # fmt: skip
    tl.store(cell, composed, mask=exists)


@triton.jit
def decode_value_kernel(
    composed, v, key_mask, z, keys, v_b, v_s, v_h,
    HEADS: tl.constexpr, D: tl.constexpr, DIMENSIONS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
    HAS_MASK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Composed pattern times values, for some dimensions of one head: all keys, BLOCK of them at a time."""
    wait_for_previous(PDL)
    head, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    d = tl.program_id(1) * DIMENSIONS + tl.arange(0, DIMENSIONS)
    v += batch * v_b + head * v_h
    composed += batch * keys * HEADS + head
    sums = tl.zeros([BLOCK, DIMENSIONS], tl.float32)
    if INTERPRETED:  # whose range() takes no number that a kernel was given
        first = 0
        while first < keys:
            sums = add_keys(sums, composed, v, key_mask + batch * keys, first, keys, v_s, d, HEADS, D, BLOCK, HAS_MASK)
            first += BLOCK
    else:
        for first in tl.range(0, keys, BLOCK, num_stages=STAGES):
            sums = add_keys(sums, composed, v, key_mask + batch * keys, first, keys, v_s, d, HEADS, D, BLOCK, HAS_MASK)
    tl.store(z + (batch * HEADS + head) * D + d, tl.sum(sums, 0).to(z.dtype.element_ty), mask=d < D)


@triton.jit
def add_keys(
    sums, composed, v, key_mask, first, keys, v_s, d,
    HEADS: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """Add the composed pattern of BLOCK keys times their values, key by key. Hidden keys' values are not read."""
    key = first + tl.arange(0, BLOCK)
    seen = key < keys
    if HAS_MASK:
        seen = seen & (tl.load(key_mask + key, mask=seen, other=0) != 0)
    pattern = tl.load(composed + key * HEADS, mask=seen, other=0.0)
    at = v + key.to(tl.int64)[:, None] * v_s + d[None, :]
    values = tl.load(at, mask=seen[:, None] & (d < D)[None, :], other=0.0)
    return sums + pattern[:, None] * values.to(tl.float32)
