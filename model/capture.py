"""Capture: one run, kept as factors; every map, matrix and attribution is rebuilt when someone looks at it.

Kept per token and layer are queries, keys, values and the mixing factors of both sites, so memory grows with the
length of the prompt, not with its square. Axes: T query, S key, N head (source), M head (target), K d_head,
R rank, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from model.backends.eager import attention_scores, in_dtype
from model.config import SIDES, SITES, DCFormerConfig
from model.functional import masked_softmax, visible
from model.mixing import Mixing, base_matrix, compose, compose_heads, side_part
from model.site_mixing import Positions, SiteMixing, index_list, one_index

BLOCK_CELLS = 2**20
"""Cells of all heads' maps that one block of queries may hold; small blocks leave out most of what is masked."""

KEYS_AT_ONCE = 128
"""Keys whose H x H matrices mixed_blocks builds at a time."""

MAPS = ("scores_raw", "scores_composed", "pattern_raw", "pattern_composed")


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
        """Several of the four maps at once, each float32 [head, query, key], for the cost of the dearest."""
        at = self._layer(layer)
        head_index = index_list(heads, self.cfg.n_heads, "head")
        query_index, key_index = (index_list(p, len(self), name) for p, name in ((queries, "query"), (keys, "key")))
        shape = (len(head_index), len(query_index), len(key_index))
        out = {name: torch.empty(shape) for name in wanted}
        for rows in self._blocks(query_index):
            block = self._block(layer, at, wanted, head_index, query_index[rows], key_index)
            for name in wanted:
                out[name][:, rows] = block[name].float()
        return out

    def row(self, layer: int, name: str, query: int) -> Tensor:
        """One query's row of one of MAPS over the keys that it sees (see keys_seen), as computed: [head, key].

        In at least float32: float64 for a float64 model, where a whole map comes back rounded.
        """
        at, seen = self._layer(layer), self.keys_seen(layer, query)
        heads, keys = torch.arange(self.cfg.n_heads), torch.arange(seen.start, seen.stop)
        return self._block(layer, at, (name,), heads, keys[-1:], keys)[name][:, 0]

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

    def _block(
        self, layer: int, at: LayerCapture, wanted: Sequence[str], heads: Tensor, queries: Tensor, keys: Tensor
    ) -> dict[str, Tensor]:
        """The wanted maps of a block of queries, [head, query, key]."""
        out = {}
        if "scores_raw" in wanted:
            out["scores_raw"] = attention_scores(at.q[None, queries][:, :, heads], at.k[None, keys][:, :, heads])[0]
        window = self.cfg.keys_visible_in(layer)
        if "pattern_raw" not in wanted and "pattern_composed" not in wanted:
            if "scores_composed" in wanted:
                raw = attention_scores(at.q[None, queries], at.k[None, keys])
                scores = compose_heads(raw, in_dtype(at.pre.cut(queries, keys), raw), heads)[0]
                out["scores_composed"] = scores.masked_fill(~visible(queries, keys, window), float("-inf"))
            return out
        # a softmax needs every key that these queries see, whichever keys were asked for
        end = int(queries.max()) + 1
        first = 0 if window is None else max(0, int(queries.min()) - window + 1)
        span = torch.arange(first, end)
        raw = attention_scores(at.q[None, queries], at.k[None, first:end])
        scores = compose(raw, in_dtype(at.pre.cut(queries, slice(first, end)), raw))
        scores = scores.masked_fill(~visible(queries, span, window), float("-inf"))
        pattern = masked_softmax(scores)
        inside = (keys >= first) & (keys < end)
        columns = keys[inside] - first
        if "scores_composed" in wanted:
            out["scores_composed"] = _spread(scores[0, heads][..., columns], inside, float("-inf"))
        if "pattern_raw" in wanted:
            out["pattern_raw"] = _spread(pattern[0, heads][..., columns], inside, 0.0)
        if "pattern_composed" in wanted:
            composed = compose_heads(pattern[..., columns], in_dtype(at.post.cut(queries, keys[inside]), raw), heads)
            out["pattern_composed"] = _spread(composed[0], inside, 0.0)
        return out


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


def _spread(values: Tensor, inside: Tensor, outside: float) -> Tensor:
    """Columns of the keys that were computed, back in their places among the keys asked for."""
    out = values.new_full((*values.shape[:-1], len(inside)), outside)
    out[..., inside] = values
    return out
