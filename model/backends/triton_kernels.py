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
    sides, HEADS: tl.constexpr, N: tl.constexpr, RANKS: tl.constexpr, HEAD_BLOCK: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Tables of all sides. A side is (down, up, gate, their two tables), its positions and the strides of the first."""
    for side in tl.static_range(len(RANKS)):
        if tl.program_id(2) == side:
            tensors, positions, of_down, of_up, of_gate = sides[side]
            write_tables(tensors, positions, of_down, of_up, of_gate, HEADS, N, RANKS[side], HEAD_BLOCK, BLOCK)


@triton.jit
def write_tables(
    tensors, positions, of_down, of_up, of_gate,
    HEADS: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr, HEAD_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One side's factors by position, [B, plane, H, position]: R of down in one table, R of up and the gate in another.

    Float32 factors have a plane each. Those of two bytes stand several in a word, as they are: 2 of down in an int32,
    4 of the others in an int64, so that a kernel fetches all that it needs of rank 2 at once.
    """
    down, up, gate, down_table, up_table = tensors
    down_b, down_t, down_g, down_r, down_n = of_down
    up_b, up_t, up_g, up_r, up_n = of_up
    gate_b, gate_t, gate_h = of_gate
    batch = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head = tl.arange(0, HEAD_BLOCK)
    inside = (head < HEADS)[:, None] & (at < positions)[None, :]
    group, n = head // N, head % N
    down += batch * down_b + (group * down_g + n * down_n)[:, None] + at[None, :] * down_t
    up += batch * up_b + (group * up_g + n * up_n)[:, None] + at[None, :] * up_t
    gate += batch * gate_b + head[:, None] * gate_h + at[None, :] * gate_t
    downs, ups = (), ()
    for r in tl.static_range(RANK):
        downs = downs + (tl.load(down + r * down_r, mask=inside),)
        ups = ups + (tl.load(up + r * up_r, mask=inside),)
    ups = ups + (tl.load(gate, mask=inside),)
    plane = HEADS * positions
    cell = head[:, None] * positions + at[None, :]
    store_factors(
        down_table + batch * planes(down_table.dtype.element_ty, RANK) * plane + cell, downs, plane, inside, RANK
    )
    store_factors(
        up_table + batch * planes(up_table.dtype.element_ty, RANK + 1) * plane + cell, ups, plane, inside, RANK + 1
    )


@triton.constexpr_function
def numbers_in_a_word(dtype):
    """1 in float32, 2 in int32, 4 in int64."""
    return 1 if dtype == tl.float32 else dtype.primitive_bitwidth // 16


@triton.constexpr_function
def planes(dtype, count):
    """Planes of a table of so many factors."""
    return -(-count // (1 if dtype == tl.float32 else dtype.primitive_bitwidth // 16))


@triton.jit
def store_factors(table, factors, plane, inside, COUNT: tl.constexpr):
    """Put COUNT factors of each position in the planes of their table."""
    EACH: tl.constexpr = numbers_in_a_word(table.dtype.element_ty)
    for first in tl.static_range(0, COUNT, EACH):
        if EACH == 1:
            word = factors[first].to(tl.float32)
        else:
            word = bits(factors[first], table)
            for i in tl.static_range(1, EACH):
                if first + i < COUNT:
                    word |= bits(factors[first + i], table) << (16 * i)
        tl.store(table + first // EACH * plane, word, mask=inside)


@triton.jit
def bits(x, table):
    """The two bytes of each number, as a number of the table's type."""
    return x.to(tl.int16, bitcast=True).to(table.dtype.element_ty) & 0xFFFF


@triton.jit
def load_factors(table, plane, exists, COUNT: tl.constexpr, FLOAT16: tl.constexpr):
    """COUNT factors of each position in float32, as store_factors put them there; 0 where there is none."""
    EACH: tl.constexpr = numbers_in_a_word(table.dtype.element_ty)
    factors = ()
    for first in tl.static_range(0, COUNT, EACH):
        word = tl.load(table + first // EACH * plane, mask=exists, other=0)
        for i in tl.static_range(EACH):
            if first + i < COUNT:
                factors = factors + (number(word, i, EACH, FLOAT16),)
    return factors


@triton.jit
def number(word, AT: tl.constexpr, EACH: tl.constexpr, FLOAT16: tl.constexpr):
    """Number AT of a word in float32. The bits of a bfloat16 are the upper ones of a float32."""
    if EACH == 1:
        value = word
    else:
        half = (word >> (32 * (AT // 2))).to(tl.int32)
        if FLOAT16:
            value = (half >> (16 * (AT % 2))).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
        elif AT % 2 == 0:
            value = (half << 16).to(tl.float32, bitcast=True)
        else:
            value = (half & -65536).to(tl.float32, bitcast=True)
    return value


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
def read(channels, maps, table, plane, exists, RANK: tl.constexpr, AXIS: tl.constexpr, FLOAT16: tl.constexpr):
    """Add one source head, times each channel's down factor of the query (AXIS 1) or key (AXIS 0)."""
    down = load_factors(table, plane, exists, RANK, FLOAT16)
    added = ()
    for r in tl.static_range(RANK):
        added = added + (channels[r] + maps * tl.expand_dims(down[r], AXIS),)
    return added


@triton.jit
def write(out, maps, channels, table, plane, exists, RANK: tl.constexpr, AXIS: tl.constexpr, FLOAT16: tl.constexpr):
    """Add to one target head what the channels write to it, and its gate times the head itself."""
    up = load_factors(table, plane, exists, RANK + 1, FLOAT16)
    out += maps * tl.expand_dims(up[RANK], AXIS)
    for r in tl.static_range(RANK):
        out += channels[r] * tl.expand_dims(up[r], AXIS)
    return out


@triton.jit
def products(
    q, k, q_place, k_place, n, row_exists, key_exists,
    D: tl.constexpr, D_LOW: tl.constexpr, D_HIGH: tl.constexpr, DESCRIBED: tl.constexpr,
):  # fmt: skip
    """Dot products of the query rows with the key rows of head n. A width of 80 is 64 + 16: nothing is padded.

    q, k: pointers to the rows of head 0, whose places are the strides of heads; or, DESCRIBED, tensor descriptors,
    whose places are (batch, first position, head 0). Those read keys that are hidden, and zeros beyond the last.
    """
    if DESCRIBED:
        rows = tl.reshape(q.load([q_place[0], q_place[1], q_place[2] + n, 0]), [row_exists.shape[0], D_LOW])
        keys = tl.reshape(k.load([k_place[0], k_place[1], k_place[2] + n, 0]), [key_exists.shape[0], D_LOW])
        out = tl.dot(rows, keys.T, input_precision="ieee")
    else:
        q_rows, k_rows = q + n * q_place, k + n * k_place
        low = tl.arange(0, D_LOW)
        rows = tl.load(q_rows[:, None] + low[None, :], mask=row_exists[:, None] & (low < D)[None, :], other=0.0)
        keys = tl.load(k_rows[:, None] + low[None, :], mask=key_exists[:, None] & (low < D)[None, :], other=0.0)
        out = tl.dot(rows, keys.T, input_precision="ieee")
        if D_HIGH > 0:
            high = D_LOW + tl.arange(0, D_HIGH)
            rows = tl.load(q_rows[:, None] + high[None, :], mask=row_exists[:, None] & (high < D)[None, :], other=0.0)
            keys = tl.load(k_rows[:, None] + high[None, :], mask=key_exists[:, None] & (high < D)[None, :], other=0.0)
            out = tl.dot(rows, keys.T, out, input_precision="ieee")
    return out


@triton.jit
def score_kernel(
    q, k, query_down, query_up, key_down, key_up, static, key_mask, maps, peaks_and_sums,
    first_query, queries, keys, query_start, window, scale_log2, rows, columns,
    q_b, q_t, q_h, k_b, k_s, k_h, mask_b,
    GROUPS: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr, FLOAT16: tl.constexpr,
    D: tl.constexpr, D_LOW: tl.constexpr, D_HIGH: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_QUERY: tl.constexpr, HAS_KEY: tl.constexpr, HAS_STATIC: tl.constexpr, HAS_MASK: tl.constexpr,
    DESCRIBED: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A tile of exp(composed score - peak) of all heads of a group, with each row's peak and sum.

    maps [B, H, rows, columns] are those of the queries from first_query on; column 0 of a block of queries is its first
    visible key, rounded down to a tile. peaks_and_sums [B, H, columns / BLOCK_K, rows, 2]. Tables: see write_tables.
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

        if DESCRIBED:
            q_rows, k_rows = q, k
            q_place = (batch.to(tl.int32), first_query + tl.program_id(1) * BLOCK_Q, first_head)
            k_place = (batch.to(tl.int32), key_start, first_head)
        else:
            q_rows = q + batch * q_b + first_head * q_h + query * q_t
            k_rows = k + batch * k_b + first_head * k_h + key * k_s
            q_place, k_place = q_h, k_h
        query_downs = (
            query_down + (batch * planes(query_down.dtype.element_ty, RANK) * HEADS + first_head) * queries + query
        )
        query_ups = (
            query_up + (batch * planes(query_up.dtype.element_ty, RANK + 1) * HEADS + first_head) * queries + query
        )
        key_downs = key_down + (batch * planes(key_down.dtype.element_ty, RANK) * HEADS + first_head) * keys + key
        key_ups = key_up + (batch * planes(key_up.dtype.element_ty, RANK + 1) * HEADS + first_head) * keys + key
        of_group = static + first_head * HEADS + first_head
        cells = maps + (batch * HEADS + first_head) * rows * columns
        cells += row[:, None] * columns + (tile * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
        head_rows = ((batch * HEADS + first_head) * (columns // BLOCK_K) + tile) * rows + row
        pairs = peaks_and_sums + head_rows[:, None] * 2 + tl.arange(0, 2)[None, :]

        query_channels = zero_channels(RANK if HAS_QUERY else 0, BLOCK_Q, BLOCK_K)
        key_channels = zero_channels(RANK if HAS_KEY else 0, BLOCK_Q, BLOCK_K)
        if HAS_QUERY or HAS_KEY:
            for n in tl.range(0, N, num_stages=STAGES):
                raw = products(q_rows, k_rows, q_place, k_place, n, row_exists, key_exists, D, D_LOW, D_HIGH, DESCRIBED)
                if HAS_QUERY:
                    at = query_downs + n * queries
                    query_channels = read(query_channels, raw, at, HEADS * queries, row_exists, RANK, 1, FLOAT16)
                if HAS_KEY:
                    at = key_downs + n * keys
                    key_channels = read(key_channels, raw, at, HEADS * keys, key_exists, RANK, 0, FLOAT16)

        # two loops, one of which does nothing: that of nearly all tiles has nothing to hide. Two branches would each
        # have shared memory of their own, and so one program a multiprocessor.
        seen = visible_tile(query_start + query, key, window, key_exists)
        write_heads(
            q_rows, k_rows, query_ups, key_ups, of_group, query_channels, key_channels, row_exists, key_exists,
            seen, cells, pairs, scale_log2, queries, keys, q_place, k_place, rows * columns,
            columns // BLOCK_K * rows * 2, hides, HEADS, N, RANK, FLOAT16, D, D_LOW, D_HIGH,
            HAS_QUERY, HAS_KEY, HAS_STATIC, True, DESCRIBED, STAGES,
        )  # fmt: skip
        write_heads(
            q_rows, k_rows, query_ups, key_ups, of_group, query_channels, key_channels, row_exists, key_exists,
            seen, cells, pairs, scale_log2, queries, keys, q_place, k_place, rows * columns,
            columns // BLOCK_K * rows * 2, hides, HEADS, N, RANK, FLOAT16, D, D_LOW, D_HIGH,
            HAS_QUERY, HAS_KEY, HAS_STATIC, False, DESCRIBED, STAGES,
        )  # fmt: skip


@triton.jit
def write_heads(
    q, k, query_up, key_up, static, query_channels, key_channels, row_exists, key_exists, seen, maps,
    peaks_and_sums, scale_log2, queries, keys, q_place, k_place, of_map, of_peaks, hides,
    HEADS: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr, FLOAT16: tl.constexpr,
    D: tl.constexpr, D_LOW: tl.constexpr, D_HIGH: tl.constexpr,
    HAS_QUERY: tl.constexpr, HAS_KEY: tl.constexpr, HAS_STATIC: tl.constexpr, HIDES: tl.constexpr,
    DESCRIBED: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The second run over a tile's heads: scores again, mixed, hidden where a key is not seen, exponentiated.

    Nothing happens where HIDES is not what hides says.
    """
    for n in tl.range(0 if HIDES or not hides else N, N if hides or not HIDES else 0, num_stages=STAGES):
        raw = products(q, k, q_place, k_place, n, row_exists, key_exists, D, D_LOW, D_HIGH, DESCRIBED)
        scores = raw
        if HAS_QUERY:
            at = query_up + n * queries
            scores = write(scores, raw, query_channels, at, HEADS * queries, row_exists, RANK, 1, FLOAT16)
        if HAS_KEY:
            at = key_up + n * keys
            scores = write(scores, raw, key_channels, at, HEADS * keys, key_exists, RANK, 0, FLOAT16)
        if HAS_STATIC:
            for m in range(N):
                source = products(q, k, q_place, k_place, m, row_exists, key_exists, D, D_LOW, D_HIGH, DESCRIBED)
                scores += source * tl.load(static + m * HEADS + n)
        if HIDES:
            # after mixing, with a finite value: a negative weight times -inf would be +inf
            scores = tl.where(seen, scores, LOWEST)
        # a row that sees nothing here has a peak above its scores, and so powers of 0
        peak = tl.maximum(tl.max(scores, 1), LEAST_PEAK)
        powers = tl.exp2(scores * scale_log2 - (peak * scale_log2)[:, None])
        tl.store(maps + n * of_map, powers.to(maps.dtype.element_ty))
        tl.store(peaks_and_sums + n * of_peaks, tl.join(peak, tl.sum(powers, 1)))


@triton.jit
def divisor_kernel(
    peaks_and_sums, factors, log_divisors,
    first_query, queries, query_start, window, scale_log2, rows, tiles, HEADS: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr, HAS_LOG: tl.constexpr,
):  # fmt: skip
    """What normalises each of a row's tiles, factors [B, H, tile, rows]: exp(peak - row's peak) / row's sum.

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
    peak = tl.load(peaks_and_sums + 2 * at, mask=written, other=LOWEST)
    total = tl.load(peaks_and_sums + 2 * at + 1, mask=written, other=0.0)
    highest = tl.max(peak, 0)
    factor = tl.exp2((peak - highest[None, :]) * scale_log2)
    divisor = tl.sum(total * factor, 0)
    empty = divisor == 0.0
    factor = tl.where(empty[None, :], 0.0, factor / tl.where(empty, 1.0, divisor)[None, :])
    tl.store(factors + at, factor, mask=written)
    if HAS_LOG:
        query = first_query + row
        ln2: tl.constexpr = 0.6931471805599453
        logs = (highest * scale_log2 + tl.log2(tl.where(empty, 1.0, divisor))) * ln2
        logs = tl.where(empty, float("inf"), logs)
        batch_head = tl.program_id(1).to(tl.int64)
        tl.store(log_divisors + batch_head * queries + query, logs, mask=(row < rows) & (query < queries))


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
