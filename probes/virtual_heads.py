"""Virtual heads: what each pair of a source and a target head adds to a layer's output, and to its scores.

Virtual head g->h of a layer: the raw pattern of source head g (after the softmax, before post-mixing), weighted by
M_post[g, h](i, j), carried by the value and output circuit of target head h. Here one query of a Capture is taken
apart at a time, exactly and in float64; the circuits at the end belong to the weights and a corpus, not to a prompt.

No tensor of size T x H x H is held: a block of keys after the other is summed up. Axes: S key, N head (source),
M head (target), K d_head, R rank, D d_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor
from transformer_lens import FactoredMatrix

from model import Capture, HookedDCFormer
from model.backends.eager import attention_scores
from model.capture import mixed_blocks, wide_direction
from model.config import SIDES, SITES
from model.mixing import Mixing, base_matrix
from model.site_mixing import one_index
from probes.interventions.intervention import branches_of
from probes.mean_mixing import MeanMixing


@dataclass(frozen=True)
class VirtualHeads:
    """The attention output of one layer at one query, without b_O, as H x H pieces; float64 on the CPU.

    layer, query: where. W_O: the target heads' output weights, [M, K, D].
    outputs: each piece before W_O of its target, [N, M, K]; all of them through W_O sum to the attention output.
    weight: sum over keys of pattern_g(query, j) M_gh(query, j), [N, M]: signed, so keys may cancel.
    absolute_weight: the same sum of absolute values. norm: Euclidean length of each piece in the residual stream.
    attribution: dot product of each piece with the direction asked for, [N, M]; None if there was none.
    """

    layer: int
    query: int
    outputs: Tensor
    weight: Tensor
    absolute_weight: Tensor
    norm: Tensor
    attribution: Tensor | None
    W_O: Tensor

    def vector(self, source: int, target: int) -> Tensor:
        """One piece in the residual stream, [d_model].

        Raises:
            ValueError: a head that does not exist.
        """
        source, target = (one_index(head, len(self.outputs), "head") for head in (source, target))
        return self.outputs[source, target] @ self.W_O[target].to("cpu", torch.float64)

    def table(self) -> pd.DataFrame:
        """A row for each virtual head, source by source.

        Columns: layer, query, source, target, attribution (only with a direction), weight, norm.
        """
        heads = torch.arange(len(self.norm))
        source, target = heads.repeat_interleave(len(heads)), heads.repeat(len(heads))
        numbers = {"source": source, "target": target, "attribution": self.attribution}
        numbers |= {"weight": self.weight, "norm": self.norm}
        columns = {name: value.flatten().numpy() for name, value in numbers.items() if value is not None}
        return pd.DataFrame({"layer": self.layer, "query": self.query} | columns)

    def ranked(self, count: int | None = None) -> pd.DataFrame:
        """The virtual heads as rows, the largest first: by |attribution|, or by norm if no direction was given.

        Args:
            count: how many; None = all H * H.
        Returns:
            The columns of table; after attribution comes share, of the sum of all H * H absolute attributions (0 to 1).
        """
        return _largest(self.table(), count)


def virtual_heads(run: Capture, layer: int, query: int, direction: Tensor | None = None) -> VirtualHeads:
    """Take a layer's attention output at one query apart into its virtual heads: an exact sum of H x H pieces.

    Args:
        direction: [d_model], to say what each piece adds along it; for a logit, see logit_direction.
    Raises:
        ValueError: a layer, query or direction that does not fit the capture.
    Source: M_post is that of arXiv 2405.08553, section 2; loops over heads and keys in tests/test_virtual_heads.py.
    """
    layer, seen = run.layer_index(layer), run.keys_seen(layer, query)
    at, along = run.layers[layer], None if direction is None else wide_direction(direction, run.cfg)
    H, K = at.v.shape[1:]
    outputs = torch.zeros(H, H, K, dtype=torch.float64)
    weight, absolute = torch.zeros(2, H, H, dtype=torch.float64)
    pattern_NS, v_SMK = run.row(layer, "pattern_raw", query), at.v[seen]
    for keys, mixed_SNM in mixed_blocks(pattern_NS, at.post, seen.stop - 1, seen):
        outputs += torch.einsum("snm,smk->nmk", mixed_SNM, v_SMK[keys].double())
        weight += mixed_SNM.sum(0)
        absolute += mixed_SNM.abs().sum(0)
    W_O = at.W_O.to("cpu", torch.float64)
    attribution = None if along is None else torch.einsum("nmk,mk->nm", outputs, W_O @ along)
    return VirtualHeads(layer, seen.stop - 1, outputs, weight, absolute, _lengths(outputs, W_O), attribution, at.W_O)


def ranked_virtual_heads(
    run: Capture, query: int, direction: Tensor, layers: Sequence[int] | None = None, count: int | None = 20
) -> pd.DataFrame:
    """The virtual heads of several layers that add most along a direction, positive or negative, the largest first.

    Args:
        layers: where to look; None = every captured layer. count: how many rows; None = all.
    Returns:
        Columns as VirtualHeads.ranked; share is of the absolute attributions of all these layers together.
    """
    if layers is not None and not layers:
        raise ValueError("layers is empty, so there is nothing to rank. Leave it out to mean every captured layer.")
    chosen = dict.fromkeys(run.layer_index(layer) for layer in (sorted(run.layers) if layers is None else layers))
    tables = [virtual_heads(run, layer, query, direction).table() for layer in chosen]
    return _largest(pd.concat(tables, ignore_index=True), count)


def logit_direction(
    model: HookedDCFormer, run: Capture, query: int, token: int | str, contrast: int | str | None = None
) -> Tensor:
    """The direction along which a piece of the residual stream at a query adds to a token's logit, [d_model], float64.

    A piece's dot product with it is its direct logit attribution: exact with the final norm's scale frozen at its
    actual value in this run. What is left over is the final norm's bias through W_U (LayerNorm only).

    Args:
        model: the one that was captured. query: the position whose next token is asked for.
        token: id, or a string that is one token. contrast: another, whose logit is subtracted.
    Raises:
        ValueError: a token or query that does not exist.
    """
    query = one_index(query, len(run), "query")
    direction = _unembedded(model, token)
    if contrast is not None:
        direction = direction - _unembedded(model, contrast)
    # LayerNorm subtracts the mean of what it reads, of every piece alike: the direction does it once for all
    centred = direction - direction.mean() if model.ln_final.centred else direction
    return centred / run.final_scale[query].double()


# -- scores: the same before the softmax -----------------------------------------------------------


def score_sources(run: Capture, layer: int, query: int, key: int) -> Tensor:
    """What each source head gives to each target head's composed score of one pair, [N, M] in float64.

    Entry [g, h]: raw score g(query, key) times M_pre[g, h](query, key). Sums over sources are the composed scores
    before the mask, so that pairs that the mask takes out can be asked for too.
    Raises:
        ValueError: a layer, query or key that does not exist.
    """
    at = run.layers[run.layer_index(layer)]
    query, key = one_index(query, len(run), "query"), one_index(key, len(run), "key")
    raw_NS = attention_scores(at.q[None, query : query + 1], at.k[None, key : key + 1])[0, :, 0]
    [(_, mixed_SNM)] = mixed_blocks(raw_NS, at.pre, query, slice(key, key + 1))
    return mixed_SNM[0]


def score_row(run: Capture, layer: int, query: int, target: int) -> Tensor:
    """What each source head gives to one target head's composed score of every key seen, [N, S] in float64.

    Only the keys that the query sees, oldest first, as in run.keys_seen(layer, query): up to the query itself, in a
    local layer its window. Sums over sources are the target's composed scores.
    Raises:
        ValueError: a layer, query or head that does not exist.
    """
    at, seen = run.layers[run.layer_index(layer)], run.keys_seen(layer, query)
    target = one_index(target, run.cfg.n_heads, "head")
    raw_NS = run.row(layer, "scores_raw", query).double()
    return raw_NS * _target_column(at.pre, seen.stop - 1, seen, target).T


def score_contrast(run: Capture, layer: int, query: int, key: int) -> Tensor:
    """What each source head's query-key circuit does to set a key apart from the others, [N, M] in float64.

    Entry [g, h]: what source g gives to target h's composed score of the key (score_sources), minus the mean of the
    same over all keys that the query sees. Sums over sources are the target's composed score of the key minus its mean
    over those keys. A softmax knows no constant, so this, unlike a score, says something about where h attends.
    Raises:
        ValueError: a key that the query does not see, or a layer or query that does not exist.
    """
    at, seen = run.layers[run.layer_index(layer)], run.keys_seen(layer, query)
    query, key = seen.stop - 1, one_index(key, len(run), "key")
    if not seen.start <= key < seen.stop:
        raise ValueError(
            f"Query {query} of layer {layer} does not see key {key}, only keys {seen.start} to {query}. Choose one."
        )
    raw_NS = run.row(layer, "scores_raw", query)
    total = torch.zeros(run.cfg.n_heads, run.cfg.n_heads, dtype=torch.float64)
    for _, mixed_SNM in mixed_blocks(raw_NS, at.pre, query, seen):
        total += mixed_SNM.sum(0)
    return score_sources(run, layer, query, key) - total / (seen.stop - seen.start)


# -- circuits of the weights, with the mixing that a corpus has on average -------------------------


def mean_matrix(model: HookedDCFormer, mean: MeanMixing, layer: int, site: str) -> Tensor:
    """Base plus the means of all branches over a corpus, [N, M] in float64; the identity where nothing is mixed.

    Raises:
        ValueError: a mean of another model, or a layer or site that does not exist.
    """
    if site not in SITES:
        raise ValueError(f"Unknown site {site!r}. Choose 'pre' (scores) or 'post' (pattern).")
    mean.check(model.cfg)
    layer = one_index(layer, model.cfg.n_layers, "layer")
    base = torch.eye(model.cfg.n_heads, dtype=torch.float64)
    if site not in model.cfg.mixed_sites:
        return base
    static = getattr(model.blocks[layer].attn, site).static()
    if static is not None:
        base = base + static.detach().to("cpu", torch.float64)
    return base + mean.of(layer, site, branches_of(model.cfg))


def effective_ov(model: HookedDCFormer, mean: MeanMixing, layer: int, source: int) -> FactoredMatrix:
    """What a source head's attention moves, through all target heads: sum over h of Mbar_post[g, h] W_V[h] W_O[h].

    [d_model, d_model] as two factors with inner dimension H * d_head, in at least float32 on the model's device. One
    source at a time: the factors of all would be as large as all the products. Mbar is mean_matrix. Left out: what
    mixing does beyond its mean, the norm before the layer (its weight too), and the bias of the values.
    Raises:
        ValueError: a mean of another model, or a layer or head that does not exist.
    """
    weights_M = mean_matrix(model, mean, layer, "post")[one_index(source, model.cfg.n_heads, "head")]
    attn = model.blocks[layer].attn
    return FactoredMatrix(_side_by_side(attn.W_V, weights_M), _side_by_side(attn.W_O.transpose(1, 2)).T)


def effective_qk(model: HookedDCFormer, mean: MeanMixing, layer: int, target: int) -> FactoredMatrix:
    """What a target head's composed scores compare: sum over g of Mbar_pre[g, h] W_Q[g] W_K[g]^T.

    [d_model of the query, d_model of the key] as two factors with inner dimension H * d_head, in at least float32 on
    the model's device. Mbar is mean_matrix. Left out: what mixing does beyond its mean, the norm of queries and keys
    (its scale too), rotary positions, the division by sqrt(d_head), the norm before the layer (its weight too), biases.
    Raises:
        ValueError: a mean of another model, or a layer or head that does not exist.
    """
    weights_N = mean_matrix(model, mean, layer, "pre")[:, one_index(target, model.cfg.n_heads, "head")]
    attn = model.blocks[layer].attn
    return FactoredMatrix(_side_by_side(attn.W_Q, weights_N), _side_by_side(attn.W_K).T)


# -- parts of the above ----------------------------------------------------------------------------


def _lengths(outputs_NMK: Tensor, W_O_MKD: Tensor) -> Tensor:
    """Euclidean length of outputs[g, h] @ W_O[h] for all pairs, [N, M], from W_O's inner products."""
    gram_MKK = W_O_MKD @ W_O_MKD.transpose(1, 2)
    squares = torch.einsum("nmk,mkl,nml->nm", outputs_NMK, gram_MKK, outputs_NMK)
    # rounding can leave the square of a vanishing piece just below 0
    return squares.clamp(min=0).sqrt()


def _largest(table: pd.DataFrame, count: int | None) -> pd.DataFrame:
    """The rows of largest |attribution|, with shares of all rows given; of largest norm where nothing is attributed."""
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, got {count}. Leave it out for all virtual heads.")
    size = table["norm"]
    if "attribution" in table:
        size = table["attribution"].abs()
        table.insert(table.columns.get_loc("attribution") + 1, "share", (size / size.sum()).fillna(0.0))
    order = size.sort_values(ascending=False, kind="stable").index[:count]
    return table.loc[order].reset_index(drop=True)


def _unembedded(model: HookedDCFormer, token: int | str) -> Tensor:
    """The residual direction of one token's logit in float64 on the CPU, [d_model], the final norm's scale left out."""
    index = token if isinstance(token, str) else one_index(token, int(model.cfg.d_vocab), "token")
    return model.tokens_to_residual_directions(index).detach().to("cpu", torch.float64)


def _target_column(mixing: Mixing, query: int, keys: slice, target: int) -> Tensor:
    """M(query, j)[:, target] for some keys from the factors, in float64: [S, N], or [1, N] if alike at every key."""
    at, size = mixing.cut(slice(query, query + 1), keys).map(Tensor.double), mixing.n_heads // mixing.groups
    group = target // size
    column = base_matrix(at).double()[None, :, target]
    for side in SIDES:
        down, up, gate = (getattr(at, f"{side}_{kind}") for kind in ("down", "up", "gate"))
        if gate is None:
            continue
        if mixing.groups > 1:
            down, up = down[:, :, group], up[:, :, group]
        part = torch.zeros(gate.shape[1:], dtype=torch.float64)
        part[:, group * size : (group + 1) * size] = torch.einsum("srn,sr->sn", down[0], up[0, ..., target % size])
        part[:, target] += gate[0, :, target]
        column = column + part
    return column


def _side_by_side(W_HDK: Tensor, weights_H: Tensor | None = None) -> Tensor:
    """The heads' [D, K] matrices beside each other, [D, H * K], each times its weight, in at least float32."""
    W_HDK = W_HDK.detach()
    wide = W_HDK if W_HDK.dtype == torch.float64 else W_HDK.float()
    if weights_H is not None:
        wide = wide * weights_H.to(wide)[:, None, None]
    return wide.transpose(0, 1).flatten(1)
