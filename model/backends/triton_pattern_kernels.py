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

from model.backends.triton_factor_kernels import (
    INTERPRETED,
    add_channels,
    first_key,
    load_factors,
    load_part,
    read,
    wait_for_previous,
    zero_channels,
)


@triton.jit
def row_factor(pairs):
    """What normalises each row of a tile: the first of a pair, read as pairs so that each of 128 threads reads one."""
    factor, _ = tl.split(tl.load(pairs[:, None] + tl.arange(0, 2)[None, :]))
    return factor


@triton.jit
def pattern_kernel(
    maps, composed, factors, query_down, query_up, key_down, key_up, static,
    first_query, queries, keys, query_start, window, rows, columns,
    GROUPS: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr, DOWN: tl.constexpr, UP: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    HAS_QUERY: tl.constexpr, HAS_KEY: tl.constexpr, HAS_STATIC: tl.constexpr, STAGES: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """A tile [ROWS, COLUMNS] of composed patterns of all heads of a group, from exponentials and what normalises them.

    composed may be the storage of maps, except with a static W. BLOCK_Q and BLOCK_K are those of score_kernel.
    """
    wait_for_previous(PDL)
    HEADS: tl.constexpr = GROUPS * N
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    batch = (tl.program_id(2) // GROUPS).to(tl.int64)
    first_head = tl.program_id(2) % GROUPS * N

    start = query_start + first_query + tl.program_id(1) * ROWS // BLOCK_Q * BLOCK_Q
    tile = tl.program_id(0) * COLUMNS // BLOCK_K
    key_start = first_key(start, window, BLOCK_K)
    if key_start + tile * BLOCK_K < tl.minimum(start + BLOCK_Q, query_start + queries):
        # beyond the last position: the last one's factors, for rows that nobody reads and patterns of 0
        query, key = tl.minimum(first_query + row, queries - 1), tl.minimum(key_start + column, keys - 1)
        of_query = (batch * HEADS + first_head) * queries + query
        of_key = (batch * HEADS + first_head) * keys + key
        query_downs, query_ups = query_down + of_query * DOWN, query_up + of_query * UP
        key_downs, key_ups = key_down + of_key * DOWN, key_up + of_key * UP
        head = batch * HEADS + first_head
        tiles = columns // BLOCK_K
        place = (batch * (rows // BLOCK_Q) + tl.program_id(1) * ROWS // BLOCK_Q) * tiles + tile
        cell = (place * HEADS + first_head) * BLOCK_Q * BLOCK_K
        cell += (row % BLOCK_Q)[:, None] * BLOCK_K + (column % BLOCK_K)[None, :]
        factor = factors + ((head * tiles + tile) * rows + row) * 2
        of_map: tl.constexpr = BLOCK_Q * BLOCK_K
        of_tiles = tiles * rows * 2

        query_channels = zero_channels(RANK if HAS_QUERY else 0, ROWS, COLUMNS)
        key_channels = zero_channels(RANK if HAS_KEY else 0, ROWS, COLUMNS)
        if HAS_QUERY or HAS_KEY:
            for n in tl.range(0, N, num_stages=STAGES):
                pattern = tl.load(maps + cell + n * of_map).to(tl.float32)
                pattern *= row_factor(factor + n * of_tiles)[:, None]
                if HAS_QUERY:
                    at = query_downs + n * (queries * DOWN)
                    query_channels = read(query_channels, pattern, at, RANK, DOWN, 1)
                if HAS_KEY:
                    at = key_downs + n * (keys * DOWN)
                    key_channels = read(key_channels, pattern, at, RANK, DOWN, 0)

        for step in tl.range(0, N, num_stages=STAGES):
            n = N - 1 - step  # backwards: the maps that were read last are still in the cache
            powers = tl.load(maps + cell + n * of_map).to(tl.float32)
            normaliser = row_factor(factor + n * of_tiles)
            # what a head gives to itself: 1 and both gates, times what normalises its exponentials
            own = normaliser[:, None]
            if HAS_QUERY:
                up_of_query = load_factors(query_ups + n * (queries * UP), RANK + 1, UP)
                own = (normaliser * (1.0 + up_of_query[RANK]))[:, None]
            if HAS_KEY:
                up_of_key = load_factors(key_ups + n * (keys * UP), RANK + 1, UP)
                own = own + normaliser[:, None] * up_of_key[RANK][None, :]
            out = powers * own
            if HAS_QUERY:
                out = add_channels(out, query_channels, up_of_query, RANK, 1)
            if HAS_KEY:
                out = add_channels(out, key_channels, up_of_key, RANK, 0)
            if HAS_STATIC:
                for m in range(N):
                    source = tl.load(maps + cell + m * of_map).to(tl.float32)
                    source *= row_factor(factor + m * of_tiles)[:, None]
                    out += source * tl.load(static + (first_head + m) * HEADS + first_head + n)
            tl.store(composed + cell + n * of_map, out.to(composed.dtype.element_ty))


@triton.jit
def add_values(
    sums, cells, factor, v_rows, column, end, v_s,
    D: tl.constexpr, D_LOW: tl.constexpr, D_HIGH: tl.constexpr, NORMALISE: tl.constexpr,
):  # fmt: skip
    """Add the pattern of one tile of keys times their values, to the low and (of widths like 80) high dimensions."""
    pattern = tl.load(cells)  # 0 where there is no key
    if NORMALISE:
        pattern = (pattern.to(tl.float32) * row_factor(factor)[:, None]).to(v_rows.dtype.element_ty)
    at = v_rows + tl.minimum(column, end - 1) * v_s
    added = (tl.dot(pattern, load_part(at, 0, D, D_LOW), sums[0], input_precision="ieee"),)
    if D_HIGH > 0:
        added = added + (tl.dot(pattern, load_part(at, D_LOW, D, D_HIGH), sums[1], input_precision="ieee"),)
    return added


@triton.jit
def map_of(first, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, COLUMNS: tl.constexpr):
    """Where the cells of a row from a column on stand, counted from its first: tiles are ROWS * BLOCK_K apart."""
    if COLUMNS == BLOCK_K:
        return first * ROWS
    else:
        return first // BLOCK_K * (ROWS * BLOCK_K) + first % BLOCK_K


@triton.jit
def value_kernel(
    composed, factors, v, z,
    first_query, queries, keys, query_start, window, rows, columns,
    v_b, v_s, v_h, z_b, z_t, z_h,
    HEADS: tl.constexpr, D: tl.constexpr, D_LOW: tl.constexpr, D_HIGH: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, COLUMNS: tl.constexpr, NORMALISE: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Head outputs of a block of queries and one head: its composed pattern times the values.

    BLOCK_Q and BLOCK_K are those of score_kernel, COLUMNS divides BLOCK_K. NORMALISE: nothing is mixed after the
    softmax, so composed are score_kernel's exponentials, and factors theirs.
    """
    wait_for_previous(PDL)
    block = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest first
    head = tl.program_id(1) % HEADS
    batch = (tl.program_id(1) // HEADS).to(tl.int64)
    start = query_start + first_query + block * BLOCK_Q
    key_start = first_key(start, window, BLOCK_K)
    end = tl.minimum(tl.minimum(start + BLOCK_Q, query_start + queries), keys) - key_start

    row = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
    place = (batch * (rows // BLOCK_Q) + block) * (columns // BLOCK_K)
    cells = composed + (place * HEADS + head) * BLOCK_Q * BLOCK_K
    cells += tl.arange(0, BLOCK_Q)[:, None] * BLOCK_K + tl.arange(0, COLUMNS)[None, :]
    factor = factors + ((batch * HEADS + head) * (columns // BLOCK_K) * rows + row) * 2
    v_rows = v + batch * v_b + head * v_h + key_start.to(tl.int64) * v_s
    sums = (tl.zeros([BLOCK_Q, D_LOW], tl.float32),)
    if D_HIGH > 0:
        sums = sums + (tl.zeros([BLOCK_Q, D_HIGH], tl.float32),)
    if INTERPRETED:  # whose range() takes no number that a kernel computed
        first = 0
        while first < end:
            of_tile = factor + first // BLOCK_K * rows * 2
            column = first + tl.arange(0, COLUMNS)
            there = cells + tl.multiple_of(map_of(first, HEADS * BLOCK_Q, BLOCK_K, COLUMNS), COLUMNS)
            sums = add_values(sums, there, of_tile, v_rows, column, end, v_s, D, D_LOW, D_HIGH, NORMALISE)
            first += COLUMNS
    else:
        for first in range(0, end, COLUMNS):
            of_tile = factor + first // BLOCK_K * rows * 2
            column = first + tl.arange(0, COLUMNS)
            there = cells + tl.multiple_of(map_of(first, HEADS * BLOCK_Q, BLOCK_K, COLUMNS), COLUMNS)
            sums = add_values(sums, there, of_tile, v_rows, column, end, v_s, D, D_LOW, D_HIGH, NORMALISE)

    query = first_query + row
    out = z + batch * z_b + query.to(tl.int64)[:, None] * z_t + head * z_h
    low = tl.arange(0, D_LOW)
    exists = (query < queries)[:, None]
    tl.store(out + low[None, :], sums[0].to(z.dtype.element_ty), mask=exists & (low < D)[None, :])
    if D_HIGH > 0:
        high = D_LOW + tl.arange(0, D_HIGH)
        tl.store(out + high[None, :], sums[1].to(z.dtype.element_ty), mask=exists & (high < D)[None, :])
