"""Capture: one run, kept as factors; every map, matrix and attribution is rebuilt when someone looks at it.

Kept per token and layer are queries, keys, values and the mixing factors of both sites, so memory grows with the
length of the prompt, not with its square. Axes: T query, S key, N head (source), M head (target), K d_head,
R rank, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from model.backends.eager import attention_scores, in_dtype
from model.config import SIDES, SITES, DCFormerConfig
from model.functional import masked_softmax, visible
from model.mixing import Mixing, base_matrix, compose, compose_heads, side_part
from model.site_mixing import Positions, SiteMixing, index_list, one_index
from model.threads import side_by_side

BLOCK_CELLS = 2**18
"""Cells of all heads' maps that one block of queries may hold; small blocks leave out most of what is masked."""

KEYS_AT_ONCE = 128
"""Keys whose H x H matrices mixed_blocks builds at a time."""

MAPS = ("scores_raw", "scores_composed", "pattern_raw", "pattern_composed")
UNSEEN = {"scores_composed": float("-inf")}
"""What stands at keys that a query may not see, where that is not 0; raw scores are masked nowhere."""


@dataclass(frozen=True)
class LayerCapture:
    """One layer of one prompt, on the CPU in the model's dtype; the mixings have a batch axis of length 1.

    q, k: as they enter the dot product, [T, N, K]. v: values, [T, N, K]. W_O: a view of the model's, [N, K, D].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    pre: Mixing
    post: Mixing
    W_O: Tensor

    def values_along(self, keys: slice, direction: Tensor) -> Tensor:
        """What each head's value of each key would add along a direction of the residual stream, [S, M] in float64."""
        return torch.einsum("smk,mk->sm", self.v[keys].double(), self.W_O.cpu().double() @ direction)


class _Asked(NamedTuple):
    """Which part of a layer's maps is wanted, and what of the layer all blocks of queries read for it.

    own, keys: the heads and keys as a slice where they follow one another. q: [T, N, K] and k: [S, N, K], of these.
    """

    layer: int
    heads: Tensor
    own: slice | Tensor
    keys: slice | Tensor
    q: Tensor
    k: Tensor


class Capture:
    """One prompt through one model; made by capture() in recording.py.

    Attributes:
        cfg: of the model. tokens: ids, [pos]. str_tokens: each token's text.
        logits: [pos, d_vocab] in float32, or None if they were not asked for.
        final_scale: divisor of the final norm at each position, [pos, 1]: attributions divide by it.
        layers: layer index -> LayerCapture, for the captured layers.
    """

    def __init__(
        self, cfg: DCFormerConfig, tokens: Tensor, str_tokens: list[str], logits: Tensor | None,
        final_scale: Tensor, layers: dict[int, LayerCapture],
    ):  # fmt: skip
        self.cfg, self.tokens, self.str_tokens = cfg, tokens, str_tokens
        self.logits, self.final_scale, self.layers = logits, final_scale, layers

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"Capture({len(self)} tokens, layers {sorted(self.layers)}, {self.nbytes / 2**20:.1f} MiB)"

    @property
    def nbytes(self) -> int:
        """Memory of what is kept, in bytes (W_O belongs to the model and does not count)."""
        kept = [t for at in self.layers.values() for t in (at.q, at.k, at.v)]
        kept += [t for at in self.layers.values() for m in (at.pre, at.post) for t in m.factors().values()]
        return sum(t.nbytes for t in kept) + (0 if self.logits is None else self.logits.nbytes)

    def scores(
        self, layer: int, stage: str = "composed", *,
        heads: Positions = None, queries: Positions = None, keys: Positions = None,
    ) -> Tensor:  # fmt: skip
        """Attention scores, float32 [head, query, key], in the units that enter the softmax.

        Args:
            stage: "raw" (q . k / sqrt(d_head) of all pairs, masked nowhere) or "composed" (after pre-mixing;
                -inf at keys that a query may not see).
            heads, queries, keys: what to cut out: an index, a slice or indices; None = all. With stage
                "composed" a head is a target head.
        """
        name = f"scores_{_stage(stage)}"
        return self.maps(layer, (name,), heads=heads, queries=queries, keys=keys)[name]

    def pattern(
        self, layer: int, stage: str = "composed", *,
        heads: Positions = None, queries: Positions = None, keys: Positions = None,
    ) -> Tensor:  # fmt: skip
        """Attention pattern, float32 [head, query, key]; 0 at keys that a query may not see.

        Args:
            stage: "raw" (after the softmax: probabilities) or "composed" (after post-mixing, what multiplies
                the values: signed, and rows need not sum to 1).
            heads, queries, keys: as for scores.
        """
        name = f"pattern_{_stage(stage)}"
        return self.maps(layer, (name,), heads=heads, queries=queries, keys=keys)[name]

    def maps(
        self, layer: int, wanted: Sequence[str] = MAPS, *,
        heads: Positions = None, queries: Positions = None, keys: Positions = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Several of MAPS at once, each float32 [head, query, key], for the cost of the dearest.

        Raises:
            ValueError: an unknown map, or a layer, head or position that does not exist.
        """
        _known(wanted)
        heads, queries, keys = (
            index_list(chosen, there, axis)
            for chosen, there, axis in (
                (heads, self.cfg.n_heads, "head"), (queries, len(self), "query"), (keys, len(self), "key")
            )
        )  # fmt: skip
        asked = self._asked(layer, heads, keys)
        out = _unseen(wanted, (len(heads), len(queries), len(keys)), torch.float32)

        def build(rows: slice) -> None:
            self._fill({name: values[:, rows] for name, values in out.items()}, asked, queries[rows])

        side_by_side(build, self._blocks(queries))
        return out

    def row(self, layer: int, name: str, query: int) -> Tensor:
        """One query's row of one of MAPS over the keys that it sees (see keys_seen), as computed: [head, key].

        In at least float32: float64 for a float64 model, where a whole map comes back rounded.
        """
        _known((name,))
        seen = self.keys_seen(layer, query)
        heads, keys = torch.arange(self.cfg.n_heads), torch.arange(seen.start, seen.stop)
        asked = self._asked(layer, heads, keys)
        out = _unseen((name,), (len(heads), 1, len(keys)), torch.promote_types(asked.q.dtype, torch.float32))
        self._fill(out, asked, keys[-1:])
        return out[name][:, 0]

    def keys_seen(self, layer: int, query: int) -> slice:
        """The keys that a query sees in a layer: up to itself, in a local layer only the last of these."""
        last = one_index(query, len(self), "query")
        window = self.cfg.keys_visible_in(self.layer_index(layer))
        return slice(0 if window is None else max(0, last - window + 1), last + 1)

    def mixing(self, layer: int, site: str = "post") -> SiteMixing:
        """The mixing matrices of one layer and site ("pre" or "post")."""
        if site not in SITES:
            raise ValueError(f"Unknown site {site!r}. Choose 'pre' (scores) or 'post' (pattern).")
        return SiteMixing(getattr(self._layer(layer), site), len(self), self.cfg.keys_visible_in(layer))

    def virtual_head_attribution(self, layer: int, query: int, direction: Tensor) -> Tensor:
        """What each virtual head g->h of a layer adds along a direction of the residual stream, [H, H].

        Entry [g, h]: the pattern of source head g, weighted by M_post[g, h](query, j), carried by the value
        and output circuit of target head h. Sums to (attention_output[query] - b_O) . direction exactly.

        Args:
            direction: [d_model]. For a logit, model.tokens_to_residual_directions(token), with LayerNorm minus its
                mean; divide the result by final_scale[query]: it is then exact with the final norm's scale frozen at
                its actual value.
        """
        at, seen = self._layer(layer), self.keys_seen(layer, query)
        value_SM = at.values_along(seen, wide_direction(direction, self.cfg))
        pattern_NS = self.row(layer, "pattern_raw", query)
        total = torch.zeros(self.cfg.n_heads, self.cfg.n_heads, dtype=torch.float64)
        for keys, mixed_SNM in mixed_blocks(pattern_NS, at.post, seen.stop - 1, seen):
            total += torch.einsum("snm,sm->nm", mixed_SNM, value_SM[keys])
        return total.float()

    def layer_index(self, layer: int) -> int:
        """A layer's key in layers; negative ones count from the end.

        Raises:
            ValueError: a layer that is not in this capture.
        """
        resolved = layer + self.cfg.n_layers if -self.cfg.n_layers <= layer < 0 else layer
        if resolved not in self.layers:
            raise ValueError(f"Layer {layer} is not in this capture. It holds layers {sorted(self.layers)}.")
        return resolved

    # -- rebuilding ----------------------------------------------------------------------------------

    def _layer(self, layer: int) -> LayerCapture:
        return self.layers[self.layer_index(layer)]

    def _blocks(self, query_index: Tensor) -> Iterator[slice]:
        """Slices of the wanted queries, small enough that a block of all heads' maps stays small."""
        block = max(1, BLOCK_CELLS // (self.cfg.n_heads * len(self)))
        for first in range(0, len(query_index), block):
            yield slice(first, first + block)

    def _asked(self, layer: int, heads: Tensor, keys: Tensor) -> _Asked:
        layer, own, cut = self.layer_index(layer), _as_slice(heads), _as_slice(keys)
        at = self.layers[layer]
        return _Asked(layer, heads, own, cut, at.q[:, own], at.k[cut][:, own])

    def _fill(self, out: dict[str, Tensor], asked: _Asked, queries: Tensor) -> None:
        """Write a block of queries into the wanted maps, [head, query, key], where keys may be seen."""
        at, window = self.layers[asked.layer], self.cfg.keys_visible_in(asked.layer)
        rows = _as_slice(queries)
        if "scores_raw" in out:
            out["scores_raw"].copy_(attention_scores(asked.q[None, rows], asked.k[None])[0])
        if not out.keys() - {"scores_raw"}:
            return
        first, end = 0 if window is None else max(0, int(queries.min()) - window + 1), int(queries.max()) + 1
        places, keys, columns = _inside(asked.keys, first, end)
        if not len(torch.arange(len(self))[keys]):
            return
        softmax = "pattern_raw" in out or "pattern_composed" in out
        # a softmax needs every key that these queries see, whichever keys were asked for
        read = slice(first, end) if softmax else keys
        raw = attention_scores(at.q[None, rows], at.k[None, read])
        mixing, unseen = in_dtype(at.pre.cut(rows, read), raw), ~visible(queries, torch.arange(len(self))[read], window)
        if not softmax:
            scores = compose_heads(raw, mixing, asked.heads).masked_fill_(unseen, float("-inf"))
            _put(out["scores_composed"], places, scores[0])
            return
        scores = compose(raw, mixing).masked_fill_(unseen, float("-inf"))
        if "scores_composed" in out:
            _put(out["scores_composed"], places, scores[0, asked.own][..., columns])
        pattern = masked_softmax(scores)
        if "pattern_raw" in out:
            _put(out["pattern_raw"], places, pattern[0, asked.own][..., columns])
        if "pattern_composed" in out:
            mixing = in_dtype(at.post.cut(rows, keys), raw)
            _put(out["pattern_composed"], places, compose_heads(pattern[..., columns], mixing, asked.heads)[0])


def mixed_blocks(maps_NS: Tensor, mixing: Mixing, query: int, keys: slice) -> Iterator[tuple[slice, Tensor]]:
    """What each source head's map gives to each target head at one query, a bounded number of keys at a time.

    Args:
        maps_NS: one query's row of a raw map over the keys of the slice.
        mixing: one site's factors of the whole prompt.
    Yields:
        (which of maps_NS's keys, maps[g, j] M(query, j)[g, h] as [S, N, M] in float64). Sums over sources give the
        composed row; the blocks of a row are never held together.
    """
    for start in range(keys.start, keys.stop, KEYS_AT_ONCE):
        block = slice(start, min(start + KEYS_AT_ONCE, keys.stop))
        here = slice(block.start - keys.start, block.stop - keys.start)
        yield here, maps_NS[:, here].double().T[:, :, None] * _matrices(mixing, query, block)


def _matrices(mixing: Mixing, query: int, keys: slice) -> Tensor:
    """M(query, j) for some keys in float64, [S, N, M], or [1, N, M] where they are the same at every key."""
    at = mixing.cut(slice(query, query + 1), keys).map(Tensor.double)
    total = base_matrix(at).double()[None]
    for side in SIDES:
        if getattr(at, f"{side}_gate") is not None:
            total = total + side_part(at, side)[0]
    return total


def wide_direction(direction: Tensor, cfg: DCFormerConfig) -> Tensor:
    """A direction of the residual stream, checked, in float64 on the CPU."""
    if direction.shape != (cfg.d_model,):
        raise ValueError(f"direction must be [d_model={cfg.d_model}], got shape {tuple(direction.shape)}.")
    return direction.detach().to("cpu", torch.float64)


def _stage(stage: str) -> Literal["raw", "composed"]:
    if stage not in ("raw", "composed"):
        raise ValueError(f"Unknown stage {stage!r}. Choose 'raw' (before mixing) or 'composed' (after).")
    return stage  # type: ignore[return-value]


def _known(names: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in MAPS]:
        raise ValueError(f"There is no map {unknown[0]!r}. Choose from {', '.join(MAPS)}.")


def _unseen(wanted: Sequence[str], shape: tuple[int, int, int], dtype: torch.dtype) -> dict[str, Tensor]:
    """Maps in which no key is seen yet."""
    return {name: torch.full(shape, UNSEEN.get(name, 0.0), dtype=dtype) for name in wanted}


def _as_slice(index: Tensor) -> slice | Tensor:
    """Indices that follow one another as a slice: of what it cuts it makes a view, where they would copy."""
    first, length = int(index[0]), len(index)
    return slice(first, first + length) if torch.equal(index, torch.arange(first, first + length)) else index


def _inside(keys: slice | Tensor, first: int, end: int) -> tuple[slice | Tensor, slice | Tensor, slice | Tensor]:
    """Of some keys those in first..end: their places among the keys, the keys themselves, and counted from first."""
    if isinstance(keys, slice):
        start, stop = max(keys.start, first), max(keys.start, first, min(keys.stop, end))
        return tuple(slice(start - zero, stop - zero) for zero in (keys.start, 0, first))  # type: ignore[return-value]
    inside = (keys >= first) & (keys < end)
    return inside, keys[inside], keys[inside] - first


def _put(out: Tensor, places: slice | Tensor, values: Tensor) -> None:
    """Write the values of some keys into their places, rounded to the map's dtype."""
    out[..., places] = values.to(out.dtype)
