"""Triton kernels of composed attention over many queries. Imports torch and triton alone.

Four kernels a chunk of queries, all exact and none with more than one tile of maps of one head in registers:

1. score_kernel: one program a tile of queries x keys. It runs over the heads of a group twice: once to let the low-rank
   channels read all raw scores (a product of query and key rows each, in tensor cores), once to compute the scores
   again, mix, mask and exponentiate them. It writes exp(score - the row's largest in this tile), which fits
   float16 whatever the scores, with that peak and the row's sum.
2. divisor_kernel: turns the peaks and sums of a row's tiles into the factor that normalises each tile.
3. pattern_kernel: one program a tile again. It runs over the heads twice, as the first did, and writes composed
   patterns.
4. value_kernel: composed patterns times values, one program a block of queries and a head.

M(i, j) = I + W + Q(i) + K(j) is never built: a side's low-rank part is R channels that a tile accumulates over the
source heads and then adds to each target head. W, which no released model has, costs one pass over the heads more
for every head.

Axes in comments: B batch, T query, S key, H all heads, G group, N heads of a group, R rank, K d_head.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.backends.triton_factor_kernels import INTERPRETED, first_key, planes, read, write, zero_channels


@triton.jit
def pattern_kernel(
    maps, composed, factors, query_down, query_up, key_down, key_up, static,
    first_query, queries, keys, query_start, window, rows, columns,
    GROUPS: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr, FLOAT16: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    HAS_QUERY: tl.constexpr, HAS_KEY: tl.constexpr, HAS_STATIC: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A tile [ROWS, COLUMNS] of composed patterns of all heads of a group, from exponentials and their factors.

    composed may be the storage of maps, except with a static W. BLOCK_Q and BLOCK_K are those of score_kernel.
    """
    HEADS: tl.constexpr = GROUPS * N
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    batch = (tl.program_id(2) // GROUPS).to(tl.int64)
    first_head = tl.program_id(2) % GROUPS * N

    start = query_start + first_query + tl.program_id(1) * ROWS // BLOCK_Q * BLOCK_Q
    tile = tl.program_id(0) * COLUMNS // BLOCK_K
    key_start = first_key(start, window, BLOCK_K)
    if key_start + tile * BLOCK_K < tl.minimum(start + BLOCK_Q, query_start + queries):
        query, key = first_query + row, key_start + column
        row_exists, key_exists = query < queries, key < keys
        query_downs = (
            query_down + (batch * planes(query_down.dtype.element_ty, RANK) * HEADS + first_head) * queries + query
        )
        query_ups = (
            query_up + (batch * planes(query_up.dtype.element_ty, RANK + 1) * HEADS + first_head) * queries + query
        )
        key_downs = key_down + (batch * planes(key_down.dtype.element_ty, RANK) * HEADS + first_head) * keys + key
        key_ups = key_up + (batch * planes(key_up.dtype.element_ty, RANK + 1) * HEADS + first_head) * keys + key
        head = batch * HEADS + first_head
        cell = head * rows * columns + row[:, None] * columns + column[None, :]
        factor = factors + (head * (columns // BLOCK_K) + tile) * rows + row
        of_tiles = columns // BLOCK_K * rows

        query_channels = zero_channels(RANK if HAS_QUERY else 0, ROWS, COLUMNS)
        key_channels = zero_channels(RANK if HAS_KEY else 0, ROWS, COLUMNS)
        if HAS_QUERY or HAS_KEY:
            for n in tl.range(0, N, num_stages=STAGES):
                pattern = tl.load(maps + cell + n * rows * columns).to(tl.float32)
                pattern *= tl.load(factor + n * of_tiles)[:, None]
                if HAS_QUERY:
                    at = query_downs + n * queries
                    query_channels = read(query_channels, pattern, at, HEADS * queries, row_exists, RANK, 1, FLOAT16)
                if HAS_KEY:
                    at = key_downs + n * keys
                    key_channels = read(key_channels, pattern, at, HEADS * keys, key_exists, RANK, 0, FLOAT16)

        for step in tl.range(0, N, num_stages=STAGES):
            n = N - 1 - step  # backwards: the maps that were read last are still in the cache
            pattern = tl.load(maps + cell + n * rows * columns).to(tl.float32)
            pattern *= tl.load(factor + n * of_tiles)[:, None]
            out = pattern
            if HAS_QUERY:
                at = query_ups + n * queries
                out = write(out, pattern, query_channels, at, HEADS * queries, row_exists, RANK, 1, FLOAT16)
            if HAS_KEY:
                at = key_ups + n * keys
                out = write(out, pattern, key_channels, at, HEADS * keys, key_exists, RANK, 0, FLOAT16)
            if HAS_STATIC:
                for m in range(N):
                    source = tl.load(maps + cell + m * rows * columns).to(tl.float32)
                    source *= tl.load(factor + m * of_tiles)[:, None]
                    out += source * tl.load(static + (first_head + m) * HEADS + first_head + n)
            tl.store(composed + cell + n * rows * columns, out.to(composed.dtype.element_ty))


@triton.jit
def add_values(
    sums, cells, factor, v_rows, column, end, v_s,
    D: tl.constexpr, D_LOW: tl.constexpr, D_HIGH: tl.constexpr, NORMALISE: tl.constexpr,
):  # fmt: skip
    """Add the pattern of one tile of keys times their values, to the low and (of widths like 80) high dimensions."""
    exists = column < end
    pattern = tl.load(cells + column[None, :])  # 0 where there is no key
    if NORMALISE:
        pattern = (pattern.to(tl.float32) * tl.load(factor)[:, None]).to(v_rows.dtype.element_ty)
    at = v_rows + column * v_s
    low = tl.arange(0, D_LOW)
    values = tl.load(at[:, None] + low[None, :], mask=exists[:, None] & (low < D)[None, :], other=0.0)
    added = (tl.dot(pattern, values, sums[0], input_precision="ieee"),)
    if D_HIGH > 0:
        high = D_LOW + tl.arange(0, D_HIGH)
        values = tl.load(at[:, None] + high[None, :], mask=exists[:, None] & (high < D)[None, :], other=0.0)
        added = added + (tl.dot(pattern, values, sums[1], input_precision="ieee"),)
    return added


@triton.jit
def value_kernel(
    composed, factors, v, z,
    first_query, queries, keys, query_start, window, rows, columns,
    v_b, v_s, v_h, z_b, z_t, z_h,
    HEADS: tl.constexpr, D: tl.constexpr, D_LOW: tl.constexpr, D_HIGH: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, COLUMNS: tl.constexpr, NORMALISE: tl.constexpr,
):  # fmt: skip
    """Head outputs of a block of queries and one head: its composed pattern times the values.

    BLOCK_Q and BLOCK_K are those of score_kernel. NORMALISE: nothing is mixed after the softmax, so composed are
    score_kernel's exponentials, and factors theirs.
    """
    block = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest first
    head = tl.program_id(1) % HEADS
    batch = (tl.program_id(1) // HEADS).to(tl.int64)
    start = query_start + first_query + block * BLOCK_Q
    key_start = first_key(start, window, BLOCK_K)
    end = tl.minimum(tl.minimum(start + BLOCK_Q, query_start + queries), keys) - key_start

    row = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    cells = composed + ((batch * HEADS + head) * rows + row[:, None]) * columns
    factor = factors + (batch * HEADS + head) * (columns // BLOCK_K) * rows + row
    v_rows = v + batch * v_b + head * v_h + key_start.to(tl.int64) * v_s
    sums = (tl.zeros([BLOCK_Q, D_LOW], tl.float32),)
    if D_HIGH > 0:
        sums = sums + (tl.zeros([BLOCK_Q, D_HIGH], tl.float32),)
    if INTERPRETED:  # whose range() takes no number that a kernel computed
        first = 0
        while first < end:
            of_tile = factor + first // BLOCK_K * rows
            column = first + tl.arange(0, COLUMNS)
            sums = add_values(sums, cells, of_tile, v_rows, column, end, v_s, D, D_LOW, D_HIGH, NORMALISE)
            first += COLUMNS
    else:
        for first in range(0, end, COLUMNS):
            of_tile = factor + first // BLOCK_K * rows
            column = first + tl.arange(0, COLUMNS)
            sums = add_values(sums, cells, of_tile, v_rows, column, end, v_s, D, D_LOW, D_HIGH, NORMALISE)

    query = first_query + row
    out = z + batch * z_b + query.to(tl.int64)[:, None] * z_t + head * z_h
    low = tl.arange(0, D_LOW)
    exists = (query < queries)[:, None]
    tl.store(out + low[None, :], sums[0].to(z.dtype.element_ty), mask=exists & (low < D)[None, :])
    if D_HIGH > 0:
        high = D_LOW + tl.arange(0, D_HIGH)
        tl.store(out + high[None, :], sums[1].to(z.dtype.element_ty), mask=exists & (high < D)[None, :])
