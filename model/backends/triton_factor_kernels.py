"""What Triton's kernels of many queries share: factors as tables, and low-rank channels that read and write heads.

Imports torch and triton alone. factor_kernel writes the tables, load_factors reads them: factors of two bytes share a
word. Axes in comments: B batch, T query, S key, H all heads, G group, N heads of a group, R rank, K d_head.
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
