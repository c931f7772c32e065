"""Composed attention of one block of queries, forward and backward, as pure functions that a compiler can fuse.

The mixing matrix of a site splits as M(i, j) = (base + Q(i)) + K(j). The first part is one H x H matrix a
query, so mixing with it is a batched matrix product over rows [head, key] of the maps; the second stays
low-rank, R multiply-adds a cell each way, because a matrix a key would have to be read anew for every query.

Axes: B batch, T query, S key, H all heads, G group, N source head and M target head within a group, R rank,
K d_head. Maps are [B, T, G, N, S]: keys last, so that every pass over them is contiguous.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from model.backends.inputs import Inputs, SiteFactors


class BlockGradients(NamedTuple):
    """Gradients of one block, and the two maps that give those of k and v as products with q and z's gradient.

    q: [B, T, H, K]. scores: gradient of the raw scores, [B, H, T, S]. pattern: the composed pattern, [B, H, T, S].
    """

    q: Tensor
    scores: Tensor
    pattern: Tensor
    pre: SiteFactors
    post: SiteFactors


def attend_block(block: Inputs, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Head outputs of one block of queries.

    Args:
        seen: which keys each query may attend to, bool [B or 1, T, S].
    Returns:
        z [B, T, H, K], and the log of each softmax's divisor [B, T, G, N, 1]: +inf for a row that sees no key,
        which makes its pattern exp(score - inf) = 0 everywhere without a special case.
    """
    scores = _masked(mix(_products(block.q, block.k, block.groups), block.pre)[0], seen)
    # a row that sees no key has the maximum -inf; any finite one leaves exp(-inf) = 0
    peak = scores.amax(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).min)
    pattern = (scores - peak).exp()
    total = pattern.sum(-1, keepdim=True)
    empty = total == 0
    pattern = pattern * (1 / total.masked_fill(empty, 1))
    log_divisor = (peak + total.log()).masked_fill(empty, float("inf"))
    return (_by_head(mix(pattern, block.post)[0]) @ block.v.transpose(1, 2)).transpose(1, 2), log_divisor


def attend_block_backward(block: Inputs, seen: Tensor, log_divisor: Tensor, z_grad: Tensor) -> BlockGradients:
    """Gradients of attend_block, its maps computed again from the inputs and the saved softmax divisors."""
    raw = _products(block.q, block.k, block.groups)
    scores, pre_channels = mix(raw, block.pre)
    pattern = (_masked(scores, seen) - log_divisor).exp()
    composed, post_channels = mix(pattern, block.post)
    composed_grad = _products(z_grad, block.v, block.groups)
    pattern_grad, post_grad = mix_backward(pattern, post_channels, composed_grad, block.post)
    inner = (pattern * pattern_grad).sum(-1, keepdim=True)
    raw_grad, pre_grad = mix_backward(raw, pre_channels, pattern * (pattern_grad - inner), block.pre)
    scores_grad = _by_head(raw_grad)
    q_grad = (scores_grad @ block.k.transpose(1, 2)).transpose(1, 2)
    return BlockGradients(q_grad, scores_grad, _by_head(composed), pre_grad, post_grad)


def mix(maps: Tensor, site: SiteFactors) -> tuple[Tensor, list[Tensor]]:
    """Mix raw maps [B, T, G, N, S].

    Returns:
        The composed maps, and what each of the R key channels read from the source heads, [B, T, G, 1, S] each.
    """
    if site.key_down is None or site.key_up is None or site.key_gate is None:
        return (maps if site.query_matrix is None else site.query_matrix.mT @ maps), []
    out = maps.clone() if site.query_matrix is None else site.query_matrix.mT @ maps
    channels = _read(maps, site.key_down)
    return _write(out.addcmul_(maps, site.key_gate[:, None]), channels, site.key_up), channels


def mix_backward(
    maps: Tensor, channels: list[Tensor], grad: Tensor, site: SiteFactors
) -> tuple[Tensor, SiteFactors]:  # fmt: skip
    """Gradients of mix: those of the raw maps, and those of the site's factors.

    Args:
        maps, channels: the raw maps that were mixed and the channels that mix returned.
        grad: the gradient of the composed maps.
    """
    matrix_grad = None if site.query_matrix is None else maps @ grad.mT
    if site.key_down is None or site.key_up is None or site.key_gate is None:
        return (grad if site.query_matrix is None else site.query_matrix @ grad), SiteFactors(matrix_grad)
    out = grad.clone() if site.query_matrix is None else site.query_matrix @ grad
    # the low-rank term transposed: it reads with up and writes with down
    channel_grads = _read(grad, site.key_up)
    out = _write(out.addcmul_(grad, site.key_gate[:, None]), channel_grads, site.key_down)
    down_grad = torch.stack([(maps * channel_grad).sum(1) for channel_grad in channel_grads], dim=1)
    up_grad = torch.stack([(grad * channel).sum(1) for channel in channels], dim=1)
    return out, SiteFactors(matrix_grad, down_grad, up_grad, (maps * grad).sum(1))


def _read(maps: Tensor, factors: Tensor) -> list[Tensor]:
    """Sum over heads of the maps times each channel's factor of the key, [B, T, G, 1, S] each."""
    return [(maps * factor[:, None]).sum(3, keepdim=True) for factor in factors.unbind(1)]


def _write(out: Tensor, channels: list[Tensor], factors: Tensor) -> Tensor:
    """Add each channel times its factor of the key to every head of out, in place."""
    for channel, factor in zip(channels, factors.unbind(1), strict=True):
        out.addcmul_(channel, factor[:, None])
    return out


def _products(rows_BTHK: Tensor, columns_BSHK: Tensor, groups: int) -> Tensor:
    """Dot products of every query row with every key row of the same head, as maps [B, T, G, N, S]."""
    return (rows_BTHK.transpose(1, 2) @ columns_BSHK.permute(0, 2, 3, 1)).transpose(1, 2).unflatten(2, (groups, -1))


def _by_head(maps: Tensor) -> Tensor:
    """Maps [B, T, G, N, S] as [B, H, T, S]."""
    return maps.flatten(2, 3).transpose(1, 2)


def _masked(scores: Tensor, seen: Tensor) -> Tensor:
    return scores.masked_fill(~seen[:, :, None, None], float("-inf"))
