"""Triton kernels of composed attention over many queries, first half: scores, and what normalises them.

Imports torch and triton alone. See triton_pattern_kernels.py for how the kernels work together.
"""

from __future__ import annotations

import triton
import triton.language as tl

from model.backends.triton_factor_kernels import (
    LEAST_PEAK,
    LOWEST,
    first_key,
    planes,
    read,
    visible_tile,
    write,
    zero_channels,
)


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
