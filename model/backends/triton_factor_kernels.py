"""What Triton's kernels of many queries share: factors as tables, and low-rank channels that read and write heads.

Imports torch and triton alone. factor_kernel writes the tables, load_factors reads them. Axes in comments: B batch,
T query, S key, H all heads, G group, N heads of a group, R rank, K d_head.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

INTERPRETED = tl.constexpr(bool(knobs.runtime.interpret))
"""Kernels run by Triton's interpreter on a CPU: fixed when this file is imported."""

LOWEST = tl.constexpr(-1.0e30)
"""A hidden score. Finite: -inf minus -inf is NaN."""

LEAST_PEAK = tl.constexpr(-0.5e30)
"""The peak of a row that sees nothing: so far above a hidden score that its exponential is 0."""


@triton.jit
def wait_for_previous(PDL: tl.constexpr):
    """With programmatic dependent launch a kernel starts while the one before it ends: this waits for its results."""
    if PDL:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def factor_kernel(
    sides, HEADS: tl.constexpr, N: tl.constexpr, RANKS: tl.constexpr, WIDTHS: tl.constexpr,
    HEAD_BLOCK: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Tables of all sides: (down, up, gate and both tables), positions and the strides of the first three."""
    wait_for_previous(PDL)
    for side in tl.static_range(len(RANKS)):
        if tl.program_id(2) == side:
            tensors, positions, of_down, of_up, of_gate = sides[side]
            write_tables(
                tensors, positions, of_down, of_up, of_gate, HEADS, N, RANKS[side], WIDTHS[side][0], WIDTHS[side][1],
                HEAD_BLOCK, BLOCK,
            )  # fmt: skip


@triton.jit
def write_tables(
    tensors, positions, of_down, of_up, of_gate,
    HEADS: tl.constexpr, N: tl.constexpr, RANK: tl.constexpr, DOWN: tl.constexpr, UP: tl.constexpr,
    HEAD_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One side's factors in float32: down [B, H, position, R], and up with the gate after it [B, H, position, R + 1].

    Rows are padded to DOWN and UP numbers, powers of two: a kernel fetches whole ones, and has nothing to convert.
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
    cell = (batch * HEADS + head[:, None]) * positions + at[None, :]
    downs, ups = down_table + cell * DOWN, up_table + cell * UP
    for r in tl.static_range(RANK):
        tl.store(downs + r, tl.load(down + r * down_r, mask=inside).to(tl.float32), mask=inside)
        tl.store(ups + r, tl.load(up + r * up_r, mask=inside).to(tl.float32), mask=inside)
    tl.store(ups + RANK, tl.load(gate, mask=inside).to(tl.float32), mask=inside)


@triton.constexpr_function
def halvings(width):
    """How often a row so wide, a power of two, is cut in two."""
    return width.bit_length() - 1


@triton.constexpr_function
def place_of(at, width):
    """Where number `at` of a row stands after all halvings: its bits in reverse."""
    last = width.bit_length() - 2
    return sum((at >> bit & 1) << (last - bit) for bit in range(last + 1))


@triton.jit
def load_factors(table, COUNT: tl.constexpr, WIDTH: tl.constexpr):
    """The first COUNT factors of each position, as write_tables put them there.

    One load of whole rows, then cut: a load of fewer numbers than a program has threads is done by each warp anew.
    """
    LENGTH: tl.constexpr = table.shape[0]
    parts = (tl.load(table[:, None] + tl.arange(0, WIDTH)[None, :]),)
    for level in tl.static_range(halvings(WIDTH)):
        halves = ()
        for i in tl.static_range(1 << level):
            halves = halves + tl.split(tl.reshape(parts[i], [LENGTH, WIDTH >> (level + 1), 2]))
        parts = halves
    factors = ()
    for i in tl.static_range(COUNT):
        factors = factors + (tl.reshape(parts[place_of(i, WIDTH)], [LENGTH]),)
    return factors


@triton.jit
def load_part(rows, FIRST: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr):
    """Dimensions FIRST to FIRST + WIDTH of the rows that these pointers point to; zeros from D on."""
    at = FIRST + tl.arange(0, WIDTH)
    if FIRST + WIDTH <= D:
        return tl.load(rows[:, None] + at[None, :])
    else:
        return tl.load(rows[:, None] + at[None, :], mask=(at < D)[None, :], other=0.0)


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
def read(channels, maps, table, RANK: tl.constexpr, WIDTH: tl.constexpr, AXIS: tl.constexpr):
    """Add one source head, times each channel's down factor of the query (AXIS 1) or key (AXIS 0)."""
    down = load_factors(table, RANK, WIDTH)
    added = ()
    for r in tl.static_range(RANK):
        added = added + (channels[r] + maps * tl.expand_dims(down[r], AXIS),)
    return added


@triton.jit
def write(out, maps, channels, table, RANK: tl.constexpr, WIDTH: tl.constexpr, AXIS: tl.constexpr):
    """Add to one target head what the channels write to it, and its gate times the head itself."""
    up = load_factors(table, RANK + 1, WIDTH)
    return add_channels(out + maps * tl.expand_dims(up[RANK], AXIS), channels, up, RANK, AXIS)


@triton.jit
def add_channels(out, channels, up, RANK: tl.constexpr, AXIS: tl.constexpr):
    """Add to one target head each channel times its up factor of the query (AXIS 1) or key (AXIS 0)."""
    for r in tl.static_range(RANK):
        out += channels[r] * tl.expand_dims(up[r], AXIS)
    return out
