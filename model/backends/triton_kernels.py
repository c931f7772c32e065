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
from triton import knobs

INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))
"""Kernels run by Triton's interpreter on a CPU: fixed when this file is imported."""

LOWEST = tl.constexpr(-1.0e30)
"""A hidden score. Finite: -inf minus -inf is NaN."""

LEAST_PEAK = tl.constexpr(-0.5e30)
"""The peak of a row that sees nothing: so far above a hidden score that its exponential is 0."""


@triton.jit
def factor_kernel(
    sides, RANKS: tl.constexpr, HEADS: tl.constexpr, N: tl.constexpr, HEAD_BLOCK: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Tables of all sides. A side is (down, up, gate, table), its positions and the strides of the first three."""
    for side in tl.static_range(len(RANKS)):
        if tl.program_id(2) == side:
            tensors, positions, of_down, of_up, of_gate = sides[side]
            write_table(tensors, positions, of_down, of_up, of_gate, HEADS, N, RANKS[side], HEAD_BLOCK, BLOCK)


@triton.jit
def write_table(
    tensors, positions, of_down, of_up, of_gate,
    HEADS: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr, HEAD_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One side's factors as a float32 table [B, 2R + 1, H, position]: R rows of down, R of up, the gate."""
    down, up, gate, table = tensors
    down_b, down_t, down_g, down_r, down_n = of_down
    up_b, up_t, up_g, up_r, up_n = of_up
    gate_b, gate_t, gate_h = of_gate
    batch = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head = tl.arange(0, HEAD_BLOCK)
    inside = (head < HEADS)[:, None] & (at < positions)[None, :]
    group, n = head // N, head % N
    out = table + batch * (2 * RANK + 1) * HEADS * positions + head[:, None] * positions + at[None, :]
    down += batch * down_b + (group * down_g + n * down_n)[:, None] + at[None, :] * down_t
    up += batch * up_b + (group * up_g + n * up_n)[:, None] + at[None, :] * up_t
    for r in tl.static_range(RANK):
        tl.store(out + r * HEADS * positions, tl.load(down + r * down_r, mask=inside).to(tl.float32), mask=inside)
        row = (RANK + r) * HEADS * positions
        tl.store(out + row, tl.load(up + r * up_r, mask=inside).to(tl.float32), mask=inside)
    gates = tl.load(gate + batch * gate_b + head[:, None] * gate_h + at[None, :] * gate_t, mask=inside)
    tl.store(out + 2 * RANK * HEADS * positions, gates.to(tl.float32), mask=inside)


@triton.jit
def first_key(position, window, BLOCK_K: tl.constexpr):
    """The first key of a block of queries that starts at this position, rounded down to a tile."""
    return tl.maximum(position - window + 1, 0) // BLOCK_K * BLOCK_K


@triton.jit
def visible_tile(position, key, window, key_exists):
    """Which keys of a tile its queries see. Rows after the last query see what they would: nobody reads them."""
    ahead = position[:, None] - key[None, :]
    return (ahead >= 0) & (ahead < window) & key_exists[None, :]


@triton.jit
def zero_channels(RANK: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr):
    """R tiles of zeros."""
    channels = ()
    for _ in tl.static_range(RANK):
        channels = channels + (tl.zeros([BLOCK_Q, BLOCK_K], tl.float32),)
    return channels


@triton.jit
def read(channels, maps, factors, stride, exists, RANK: tl.constexpr, AXIS: tl.constexpr):
    """Add one source head, times each channel's down factor of the query (AXIS 1) or key (AXIS 0)."""
    added = ()
    for r in tl.static_range(RANK):
        down = tl.load(factors + r * stride, mask=exists, other=0.0)
        added = added + (channels[r] + maps * tl.expand_dims(down, AXIS),)
    return added


@triton.jit
def write(out, maps, channels, factors, stride, exists, RANK: tl.constexpr, AXIS: tl.constexpr):
    """Add to one target head what the channels write to it, and its gate times the head itself."""
    gate = tl.load(factors + 2 * RANK * stride, mask=exists, other=0.0)
    out += maps * tl.expand_dims(gate, AXIS)
    for r in tl.static_range(RANK):
        up = tl.load(factors + (RANK + r) * stride, mask=exists, other=0.0)
        out += channels[r] * tl.expand_dims(up, AXIS)
    return out


@triton.jit
def products(
    q_rows, k_rows, row_exists, key_exists, D: tl.constexpr, D_LOW: tl.constexpr, D_HIGH: tl.constexpr
):  # fmt: skip
    """Dot products of the query rows with the key rows of one head. A width of 80 is 64 + 16: nothing is padded."""
    low = tl.arange(0, D_LOW)
    q = tl.load(q_rows[:, None] + low[None, :], mask=row_exists[:, None] & (low < D)[None, :], other=0.0)
    k = tl.load(k_rows[:, None] + low[None, :], mask=key_exists[:, None] & (low < D)[None, :], other=0.0)
    out = tl.dot(q, k.T, input_precision="ieee")
    if D_HIGH > 0:
        high = D_LOW + tl.arange(0, D_HIGH)
        q = tl.load(q_rows[:, None] + high[None, :], mask=row_exists[:, None] & (high < D)[None, :], other=0.0)
        k = tl.load(k_rows[:, None] + high[None, :], mask=key_exists[:, None] & (high < D)[None, :], other=0.0)
        out = tl.dot(q, k.T, out, input_precision="ieee")
    return out


@triton.jit
def score_kernel(
    q, k, query_factors, key_factors, static, key_mask, maps, peaks, sums,
    first_query, queries, keys, query_start, window, scale_log2, rows, columns,
    q_b, q_t, q_h, k_b, k_s, k_h, mask_b,
    GROUPS: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
    D: tl.constexpr, D_LOW: tl.constexpr, D_HIGH: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_QUERY: tl.constexpr, HAS_KEY: tl.constexpr, HAS_STATIC: tl.constexpr, HAS_MASK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """A tile of exp(composed score - peak) of all heads of a group, with each row's peak and sum.

    maps [B, H, rows, columns] are those of the queries from first_query on; column 0 of a block of queries is its first
    visible key, rounded down to a tile. peaks, sums [B, H, columns / BLOCK_K, rows].
    """
    HEADS: tl.constexpr = GROUPS * N
    tile = tl.program_id(0)
    row = tl.program_id(1) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    batch = (tl.program_id(2) // GROUPS).to(tl.int64)
    first_head = tl.program_id(2) % GROUPS * N

    start = query_start + first_query + tl.program_id(1) * BLOCK_Q
    key_start = first_key(start, window, BLOCK_K) + tile * BLOCK_K
    if key_start < tl.minimum(start + BLOCK_Q, query_start + queries):
        query = first_query + row
        key = key_start + tl.arange(0, BLOCK_K)
        row_exists, key_exists = query < queries, key < keys
        last = key_start + BLOCK_K - 1
        hides = (last > start) | (last >= keys) | (key_start <= start + BLOCK_Q - 1 - window)
        if HAS_MASK:
            key_exists = key_exists & (tl.load(key_mask + batch * mask_b + key, mask=key_exists, other=0) != 0)
            hides = True

        q_rows = q + batch * q_b + first_head * q_h + query * q_t
        k_rows = k + batch * k_b + first_head * k_h + key * k_s
        of_query = query_factors + batch * (2 * RANK + 1) * HEADS * queries + first_head * queries + query
        of_key = key_factors + batch * (2 * RANK + 1) * HEADS * keys + first_head * keys + key

        cell = (batch * HEADS + first_head) * rows * columns
        cell = cell + row[:, None] * columns + (tile * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
        query_channels = zero_channels(RANK if HAS_QUERY else 0, BLOCK_Q, BLOCK_K)
        key_channels = zero_channels(RANK if HAS_KEY else 0, BLOCK_Q, BLOCK_K)
        if HAS_QUERY or HAS_KEY:
            for n in tl.range(0, N, num_stages=STAGES):
                raw = products(q_rows + n * q_h, k_rows + n * k_h, row_exists, key_exists, D, D_LOW, D_HIGH)
                if HAS_QUERY:
                    query_channels = read(
                        query_channels, raw, of_query + n * queries, HEADS * queries, row_exists, RANK, 1
                    )
                if HAS_KEY:
                    key_channels = read(key_channels, raw, of_key + n * keys, HEADS * keys, key_exists, RANK, 0)
        head_row = (batch * HEADS + first_head) * (columns // BLOCK_K) * rows + tile * rows + row
        for n in tl.range(0, N, num_stages=STAGES):
            raw = products(q_rows + n * q_h, k_rows + n * k_h, row_exists, key_exists, D, D_LOW, D_HIGH)
            scores = raw
            if HAS_QUERY:
                scores = write(
                    scores, raw, query_channels, of_query + n * queries, HEADS * queries, row_exists, RANK, 1
                )
            if HAS_KEY:
                scores = write(scores, raw, key_channels, of_key + n * keys, HEADS * keys, key_exists, RANK, 0)
            if HAS_STATIC:
                for m in range(N):
                    source = products(q_rows + m * q_h, k_rows + m * k_h, row_exists, key_exists, D, D_LOW, D_HIGH)
                    scores += source * tl.load(static + (first_head + m) * HEADS + first_head + n)
            if hides:
                # after mixing, with a finite value: a negative weight times -inf would be +inf
                scores = tl.where(visible_tile(query_start + query, key, window, key_exists), scores, LOWEST)
            # a row that sees nothing here has a peak above its scores, and so powers of 0
            peak = tl.maximum(tl.max(scores, 1), LEAST_PEAK)
            powers = tl.exp2(scores * scale_log2 - (peak * scale_log2)[:, None])
            tl.store(maps + cell + n * rows * columns, powers.to(maps.dtype.element_ty))
            tl.store(peaks + head_row + n * (columns // BLOCK_K) * rows, peak)
            tl.store(sums + head_row + n * (columns // BLOCK_K) * rows, tl.sum(powers, 1))


@triton.jit
def divisor_kernel(
    peaks, sums, log_divisors,
    first_query, queries, query_start, window, scale_log2, rows, tiles, HEADS: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr, HAS_LOG: tl.constexpr,
):  # fmt: skip
    """Overwrite the peaks of a row's tiles with exp(peak - row's peak) / row's sum.

    log_divisors [B, H, T]: the log of each row's softmax divisor; +inf for a row that sees no key, whose factors are 0.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    tile = tl.arange(0, TILES)
    block = row // BLOCK_Q * BLOCK_Q  # the first row of the block of queries that a row is in
    start = query_start + first_query + block
    first = first_key(start, window, BLOCK_K)
    end = tl.minimum(start + BLOCK_Q, query_start + queries)
    written = ((first[None, :] + tile[:, None] * BLOCK_K) < end[None, :]) & (row < rows)[None, :]
    at = tl.program_id(1).to(tl.int64) * tiles * rows + tile[:, None] * rows + row[None, :]
    peak = tl.load(peaks + at, mask=written, other=LOWEST)
    total = tl.load(sums + at, mask=written, other=0.0)
    highest = tl.max(peak, 0)
    factor = tl.exp2((peak - highest[None, :]) * scale_log2)
    divisor = tl.sum(total * factor, 0)
    empty = divisor == 0.0
    factor = tl.where(empty[None, :], 0.0, factor / tl.where(empty, 1.0, divisor)[None, :])
    tl.store(peaks + at, factor, mask=written)
    if HAS_LOG:
        query = first_query + row
        ln2: tl.constexpr = 0.6931471805599453
        logs = (highest * scale_log2 + tl.log2(tl.where(empty, 1.0, divisor))) * ln2
        logs = tl.where(empty, float("inf"), logs)
        batch_head = tl.program_id(1).to(tl.int64)
        tl.store(log_divisors + batch_head * queries + query, logs, mask=(row < rows) & (query < queries))


@triton.jit
def pattern_kernel(
    maps, composed, factors, query_factors, key_factors, static,
    first_query, queries, keys, query_start, window, rows, columns,
    GROUPS: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr,
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
        of_query = query_factors + batch * (2 * RANK + 1) * HEADS * queries + first_head * queries + query
        of_key = key_factors + batch * (2 * RANK + 1) * HEADS * keys + first_head * keys + key
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
                    query_channels = read(
                        query_channels, pattern, of_query + n * queries, HEADS * queries, row_exists, RANK, 1
                    )
                if HAS_KEY:
                    key_channels = read(key_channels, pattern, of_key + n * keys, HEADS * keys, key_exists, RANK, 0)

        for n in tl.range(0, N, num_stages=STAGES):
            pattern = tl.load(maps + cell + n * rows * columns).to(tl.float32)
            pattern *= tl.load(factor + n * of_tiles)[:, None]
            out = pattern
            if HAS_QUERY:
                out = write(out, pattern, query_channels, of_query + n * queries, HEADS * queries, row_exists, RANK, 1)
            if HAS_KEY:
                out = write(out, pattern, key_channels, of_key + n * keys, HEADS * keys, key_exists, RANK, 0)
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
