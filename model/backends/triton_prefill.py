"""Composed attention of many queries by the kernels of triton_pattern_kernels.py: a chunk of queries at a time.

What a chunk holds is its maps in two bytes a cell (four for float32 inputs), never more than SCRATCH_BYTES unless a
single block of queries needs it, so memory is linear in the number of tokens. Imports torch and triton alone.
Axes: B batch, T query, S key, H all heads, G group, N heads of a group, R rank, K d_head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from model.backends.triton_factor_kernels import INTERPRETED, factor_kernel
from model.backends.triton_memory import SCRATCH_BYTES
from model.backends.triton_pattern_kernels import pattern_kernel, value_kernel
from model.backends.triton_score_kernels import divisor_kernel, score_kernel
from model.mixing import Mixing

LOG2_E = 1.4426950408889634


Tables = tuple[Tensor, Tensor]
"""Down of one side, and its up and gate, as write_tables lays them out: [B, plane, H, position]."""


class SiteTables(NamedTuple):
    """One site's factors as the kernels read them, and W [H, H]."""

    query: Tables | None
    key: Tables | None
    static: Tensor | None
    rank: int
    float16: bool


@dataclass(frozen=True)
class Tiles:
    """Tile sizes and warps of the kernels.

    queries, keys: of score_kernel's tile. pattern_queries, pattern_keys: of pattern_kernel's, which divide those.
    value_keys: keys a step of value_kernel.
    stages: how many steps ahead q, k, v and, in pattern_kernel, maps and factors are fetched.
    score_prefetch: the same for score_kernel's factors; None = they are fetched when they are used.
    score_registers: at most so many a thread, so that more programs share a multiprocessor; None = as many as it likes.
    """

    queries: int = 64
    keys: int = 64
    pattern_queries: int = 64
    pattern_keys: int = 64
    value_keys: int = 64
    score_warps: int = 4
    score_stages: int = 3
    score_prefetch: int | None = 3
    score_registers: int | None = None
    pattern_warps: int = 4
    pattern_stages: int | None = 3
    value_warps: int = 4
    value_stages: int = 4


FEW = Tiles(keys=32, pattern_queries=32, pattern_keys=32, value_keys=32, score_registers=168)
"""Twice as many programs, for calls with few tiles. At 512 tokens 64 x 64 tiles took 0.167 ms, and 64 x 32 tiles
0.111 ms, on an H200: its 132 multiprocessors cannot share the work of 36 programs."""

FEW_TILES = 264
"""Visible tiles of 64 x 64 that are few: less than two for each multiprocessor of a large GPU."""


class Chunk(NamedTuple):
    """Some sequences and queries, and the size of one head's map of them."""

    batch: slice
    first_query: int
    rows: int
    columns: int


def prefill(
    q_BTHK: Tensor, k_BSHK: Tensor, v_BSHK: Tensor, pre: Mixing, post: Mixing, visible_keys: int | None,
    query_start: int, key_mask_BS: Tensor | None, *, with_log_divisors: bool = False, tiles: Tiles | None = None,
    scratch_bytes: int = SCRATCH_BYTES,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Head outputs z [B, T, H, K] in the dtype of v and, if asked for, the log of each softmax's divisor [B, T, H].

    Arguments as for composed_attention, in float32, bfloat16 or float16. The divisor's log is +inf where a query sees
    no key; scores, mixing and softmax are float32, patterns are rounded to the dtype of v before they meet the values.
    """
    if INTERPRETED.value and q_BTHK.dtype == torch.bfloat16:  # the interpreter computes with NumPy, which has none
        z, logs = prefill(
            q_BTHK.float(), k_BSHK.float(), v_BSHK.float(), pre, post, visible_keys, query_start, key_mask_BS,
            with_log_divisors=with_log_divisors, tiles=tiles, scratch_bytes=scratch_bytes,
        )  # fmt: skip
        return z.to(v_BSHK.dtype), logs
    call = _Call(q_BTHK, k_BSHK, v_BSHK, pre, post, visible_keys, query_start, key_mask_BS, tiles, with_log_divisors)
    for chunk in call.chunks(scratch_bytes):
        call.run(chunk)
    return call.z, call.log_divisors


class _Call:
    """One call of prefill: what all of its chunks share."""

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, pre: Mixing, post: Mixing, visible_keys: int | None,
        query_start: int, key_mask: Tensor | None, tiles: Tiles | None, with_log_divisors: bool,
    ):  # fmt: skip
        self.q, self.k, self.v = (_rows_contiguous(x) for x in (q, k, v))
        self.batch, self.queries, self.heads, self.d_head = q.shape
        self.keys, self.groups, self.query_start = k.shape[1], pre.groups, query_start
        self.window = self.keys if visible_keys is None else min(visible_keys, self.keys)
        self.key_mask = None if key_mask is None else key_mask.to(torch.uint8).contiguous()
        seen = min(self.window, self.query_start + (self.queries + 1) // 2)  # by a query in the middle
        self.tiles = tiles or tiles_for(self.batch * self.groups * self.queries, seen, q.dtype)
        self.pre, self.post = factor_tables(pre, post, self.batch, self.queries, self.keys)
        self.scale_log2 = self.d_head**-0.5 * LOG2_E
        self.z = q.new_empty(q.shape, dtype=v.dtype)
        shape = self.batch, self.heads, self.queries
        self.log_divisors = self.q.new_empty(shape, dtype=torch.float32) if with_log_divisors else None
        self.maps_dtype = torch.float32 if v.dtype == torch.float32 else torch.float16

    def chunks(self, scratch_bytes: int) -> list[Chunk]:
        """Sequences and queries whose maps fit in so many bytes; at least one block of queries of one sequence."""
        block, rows_in_all = self.tiles.queries, _up(self.queries, self.tiles.queries)
        widest = self._columns(self.query_start + self.queries)
        bytes_of_row = self.heads * widest * self.maps_dtype.itemsize
        rows = min(rows_in_all, max(block, scratch_bytes // bytes_of_row // block * block))
        sequences = max(1, min(self.batch, scratch_bytes // (bytes_of_row * rows)))
        return [
            Chunk(slice(b, min(b + sequences, self.batch)), first, min(rows, rows_in_all - first),
                  self._columns(min(self.query_start + first + rows, self.keys)))
            for b in range(0, self.batch, sequences)
            for first in range(0, self.queries, rows)
        ]  # fmt: skip

    def _columns(self, end: int) -> int:
        """Columns of maps whose last query stands before position end."""
        tile = self.tiles.keys
        return min(_up(end, tile), _up(self.window + self.tiles.queries + tile, tile))

    def run(self, chunk: Chunk) -> None:
        """The four kernels for one chunk."""
        batch = chunk.batch.stop - chunk.batch.start
        blocks, tiles = chunk.rows // self.tiles.queries, chunk.columns // self.tiles.keys
        maps = self.q.new_empty(batch, self.heads, chunk.rows, chunk.columns, dtype=self.maps_dtype)
        peaks = self.q.new_empty(batch, self.heads, tiles, chunk.rows, 2, dtype=torch.float32)
        factors = peaks.new_empty(peaks.shape[:-1])
        self._scores(chunk, maps, peaks, (tiles, blocks, batch * self.groups))
        self._divisors(chunk, peaks, factors)
        if self.post.static is self.post.query is self.post.key is None:
            self._values(chunk, maps, factors)
            return
        dtype = self.v.dtype
        composed = maps.view(dtype) if self.post.static is None else maps.new_empty(maps.shape, dtype=dtype)
        self._patterns(chunk, maps, composed, factors)
        self._values(chunk, composed, None)

    def _scores(self, chunk: Chunk, maps: Tensor, peaks_and_sums: Tensor, grid: tuple[int, int, int]) -> None:
        q, k, at = self.q[chunk.batch], self.k[chunk.batch], self.tiles
        mask = None if self.key_mask is None else self.key_mask[chunk.batch]
        described = descriptors_read(q, k)
        read_q, read_k = q, k
        if described:
            read_q = TensorDescriptor.from_tensor(q, [1, at.queries, 1, self.d_head])
            read_k = TensorDescriptor.from_tensor(k, [1, at.keys, 1, self.d_head])
        score_kernel[grid](
            read_q, read_k, *_of(self.pre, chunk, maps), _or(self.pre.static, maps), _or(mask, maps),
            maps, peaks_and_sums,
            chunk.first_query, self.queries, self.keys, self.query_start, self.window, self.scale_log2,
            chunk.rows, chunk.columns, *q.stride()[:3], *k.stride()[:3], self.keys,
            **self._mixing(self.pre), **self._width(), BLOCK_Q=at.queries, BLOCK_K=at.keys, HAS_MASK=mask is not None,
            DESCRIBED=described, STAGES=at.score_prefetch,
            num_warps=at.score_warps, num_stages=at.score_stages, maxnreg=at.score_registers,
        )  # fmt: skip

    def _divisors(self, chunk: Chunk, peaks_and_sums: Tensor, factors: Tensor) -> None:
        tiles = factors.shape[2]
        rows = max(2, min(16, 2**12 // triton.next_power_of_2(tiles)))  # 2**12 numbers fit in registers
        logs = self.log_divisors
        divisor_kernel[(-(-chunk.rows // rows), factors.shape[0] * self.heads)](
            peaks_and_sums, factors, factors if logs is None else logs[chunk.batch],
            chunk.first_query, self.queries, self.query_start, self.window, self.scale_log2,
            chunk.rows, tiles,
            HEADS=self.heads, BLOCK_Q=self.tiles.queries, BLOCK_K=self.tiles.keys, TILES=triton.next_power_of_2(tiles),
            ROWS=rows, HAS_LOG=logs is not None,
        )  # fmt: skip

    def _patterns(self, chunk: Chunk, maps: Tensor, composed: Tensor, factors: Tensor) -> None:
        at = self.tiles
        grid = (chunk.columns // at.pattern_keys, chunk.rows // at.pattern_queries, maps.shape[0] * self.groups)
        pattern_kernel[grid](
            maps, composed, factors, *_of(self.post, chunk, maps), _or(self.post.static, maps),
            chunk.first_query, self.queries, self.keys, self.query_start, self.window, chunk.rows, chunk.columns,
            **self._mixing(self.post), BLOCK_Q=at.queries, BLOCK_K=at.keys,
            ROWS=at.pattern_queries, COLUMNS=at.pattern_keys, STAGES=at.pattern_stages, num_warps=at.pattern_warps,
        )  # fmt: skip

    def _values(self, chunk: Chunk, composed: Tensor, factors: Tensor | None) -> None:
        v, z, at = self.v[chunk.batch], self.z[chunk.batch], self.tiles
        value_kernel[(chunk.rows // at.queries, composed.shape[0] * self.heads)](
            composed, _or(factors, composed), v, z,
            chunk.first_query, self.queries, self.keys, self.query_start, self.window, chunk.rows, chunk.columns,
            *v.stride()[:3], *z.stride()[:3], HEADS=self.heads, **self._width(),
            BLOCK_Q=at.queries, BLOCK_K=at.keys, COLUMNS=at.value_keys, NORMALISE=factors is not None,
            num_warps=at.value_warps, num_stages=at.value_stages,
        )  # fmt: skip

    def _mixing(self, site: SiteTables) -> dict[str, int | bool]:
        return {
            "GROUPS": self.groups, "N": self.heads // self.groups, "RANK": site.rank, "FLOAT16": site.float16,
            "HAS_QUERY": site.query is not None, "HAS_KEY": site.key is not None,
            "HAS_STATIC": site.static is not None,
        }  # fmt: skip

    def _width(self) -> dict[str, int]:
        low, high = split_width(self.d_head)
        return {"D": self.d_head, "D_LOW": low, "D_HIGH": high}


def tiles_for(queries: int, keys: int, dtype: torch.dtype) -> Tiles:
    """Tile sizes for a call with so many queries in all sequences and groups, each of which sees so many keys."""
    if INTERPRETED.value:  # small tiles, so that small inputs cross their edges
        return Tiles(queries=16, keys=32, pattern_queries=16, pattern_keys=32, value_keys=32)
    if dtype == torch.float32:
        return Tiles(queries=32, keys=32, pattern_queries=16, pattern_keys=32, value_keys=32)
    return FEW if queries * keys < FEW_TILES * 64 * 64 else Tiles()


def descriptors_read(*tensors: Tensor) -> bool:
    """Should score_kernel read these queries and keys by tensor descriptors (TMA)? On Hopper, with heads of 128.

    Measured on an H200 at 2048 tokens: 179 us instead of 202 for heads of 128, and no gain for heads of 80.
    """
    x = tensors[0]
    if x.device.type != "cuda" or torch.version.cuda is None or x.element_size() != 2 or x.shape[-1] != 128:
        return False
    if torch.cuda.get_device_capability(x.device)[0] != 9:
        return False
    return all(x.data_ptr() % 16 == 0 and all(stride % 8 == 0 for stride in x.stride()[:-1]) for x in tensors)


def split_width(d_head: int) -> tuple[int, int]:
    """A head's width as two powers of two that cover it, 80 = 64 + 16 say; the second is 0 where one is enough."""
    low = max(16, 2 ** (d_head.bit_length() - 1))
    rest = d_head - low
    return low, 0 if rest <= 0 else max(16, triton.next_power_of_2(rest))


def factor_tables(pre: Mixing, post: Mixing, batch: int, queries: int, keys: int) -> tuple[SiteTables, SiteTables]:
    """Both sites' factors, laid out so that a kernel reads those of neighbouring positions together. One launch."""
    heads, block = pre.n_heads, 32
    given = [_side(mixing, name) for mixing in (pre, post) for name in ("query", "key")]
    dtypes = {factor.dtype for side in given if side is not None for factor in side}
    packed = len(dtypes) == 1 and dtypes <= {torch.bfloat16, torch.float16}
    tables: list[Tables | None] = [None] * 4
    sides, ranks = [], []
    for at, side in enumerate(given):
        if side is not None:
            length, rank = (queries, keys)[at % 2], side[0].shape[3]
            made = tables[at] = _empty_tables(side[0], (batch, heads, length), rank, packed)
            sides.append(((*side, *made), length, *(factor.stride() for factor in side)))
            ranks.append(rank)
    if sides:
        factor_kernel[(-(-max(queries, keys) // block), batch, len(sides))](
            tuple(sides), HEADS=heads, N=heads // pre.groups, RANKS=tuple(ranks),
            HEAD_BLOCK=triton.next_power_of_2(heads), BLOCK=block,
        )  # fmt: skip
    float16 = dtypes == {torch.float16}
    return _site(pre, tables[0], tables[1], float16), _site(post, tables[2], tables[3], float16)


def _empty_tables(like: Tensor, size: tuple[int, int, int], rank: int, packed: bool) -> Tables:
    """See write_tables; size is batch, heads and positions."""
    (batch, *rest), (few, many) = size, (2, 4) if packed else (1, 1)
    down, up = (torch.int32, torch.int64) if packed else (torch.float32, torch.float32)
    return (
        like.new_empty(batch, -(-rank // few), *rest, dtype=down),
        like.new_empty(batch, -(-(rank + 1) // many), *rest, dtype=up),
    )


def _site(mixing: Mixing, query: Tables | None, key: Tables | None, float16: bool) -> SiteTables:
    static = None if mixing.static is None else mixing.static.float().contiguous()
    present = mixing.query_down if mixing.query_down is not None else mixing.key_down
    return SiteTables(query, key, static, 1 if present is None else present.shape[-2], float16)


def _side(mixing: Mixing, name: str) -> tuple[Tensor, Tensor, Tensor] | None:
    """down, up [B, T, G, R, N] and gate [B, T, H] of one side; None where a site lacks it."""
    down, up, gate = (getattr(mixing, f"{name}_{part}") for part in ("down", "up", "gate"))
    if down is None or up is None or gate is None:
        return None
    down, up = (f.unsqueeze(2) if mixing.groups == 1 else f for f in (down, up))
    return down, up, gate


def _of(site: SiteTables, chunk: Chunk, unused: Tensor) -> list[Tensor]:
    """The four tables of a site for a chunk's sequences."""
    sides = [(unused, unused) if side is None else side for side in (site.query, site.key)]
    return [table if table is unused else table[chunk.batch] for side in sides for table in side]


def _or(tensor: Tensor | None, unused: Tensor) -> Tensor:
    """A kernel that does not read an argument still needs a pointer."""
    return unused if tensor is None else tensor


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
