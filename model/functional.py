"""Norms, rotary positions, masks and losses as pure functions. Imports torch alone.

Axes: B batch, T query, S key, N head, K d_head, D d_model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

QK_NORM_EPS = 1e-6


def norm_scale(x: Tensor, eps: float, centred: bool) -> tuple[Tensor, Tensor]:
    """The input of a norm's division and its divisor, both in at least float32.

    Returns:
        (x or, for LayerNorm, x minus its mean; sqrt(mean square + eps) with the last axis kept).
    """
    wide = x if x.dtype == torch.float64 else x.float()
    if centred:
        wide = wide - wide.mean(-1, keepdim=True)
    return wide, (wide.square().mean(-1, keepdim=True) + eps).sqrt()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide, scale = norm_scale(x, eps, centred=False)
    return (wide / scale).to(x.dtype) * weight


def activate(act_fn: str, x: Tensor) -> Tensor:
    """The MLP's nonlinearity by its name in DCFormerConfig."""
    if act_fn == "silu":
        return F.silu(x)
    return F.gelu(x, approximate="tanh" if act_fn == "gelu_new" else "none")


def rotary_tables(positions: Tensor, width: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin for rotating dimension d with d + width/2, [..., position, width/2].

    Angles are computed in float32 (float64 for float64 models) and only then cast.
    """
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    steps = torch.arange(0, width, 2, device=positions.device, dtype=exact) / width
    angles = positions.to(exact)[..., None] / (base**steps)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x_BTNK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding on the leading dimensions; cos and sin are [B or 1, T, width/2]."""
    half = cos.shape[-1]
    cos, sin = cos[..., None, :], sin[..., None, :]
    first, second, rest = x_BTNK[..., :half], x_BTNK[..., half : 2 * half], x_BTNK[..., 2 * half :]
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)


def visible(query_positions: Tensor, key_positions: Tensor, visible_keys: int | None) -> Tensor:
    """Which keys each query may see, bool [query, key]: none that come later, the last `visible_keys` of the rest."""
    ahead = query_positions[:, None] - key_positions[None, :]
    seen = ahead >= 0
    return seen if visible_keys is None else seen & (ahead < visible_keys)


def masked_softmax(scores: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
    """Softmax over keys in at least float32; a row that sees no key (left padding) is all zeros, not NaN."""
    # fp32: a bf16 softmax loses the small probabilities that post-mixing then amplifies
    wide = scores if scores.dtype == torch.float64 else scores.float()
    dead = (wide == float("-inf")).all(-1, keepdim=True)
    # the scores of a dead row are replaced before the softmax, so that no NaN reaches the gradient
    pattern = wide.masked_fill(dead, 0.0).softmax(-1).masked_fill(dead, 0.0)
    return pattern.to(out_dtype or scores.dtype)


def next_token_loss(logits_BTV: Tensor, tokens_BT: Tensor, attention_mask_BT: Tensor | None, per_token: bool) -> Tensor:
    """Cross-entropy of each next token in nats: its mean, or with per_token [batch, pos - 1] (0 where padded)."""
    # at least fp32: summing many small probabilities in bf16 is off by whole percents
    wide = logits_BTV if logits_BTV.dtype == torch.float64 else logits_BTV.float()
    loss_BT = F.cross_entropy(wide[:, :-1].transpose(1, 2), tokens_BT[:, 1:].to(wide.device), reduction="none")
    if attention_mask_BT is None:
        return loss_BT if per_token else loss_BT.mean()
    real = (attention_mask_BT[:, 1:] & attention_mask_BT[:, :-1]).to(loss_BT.device)
    loss_BT = loss_BT * real
    return loss_BT if per_token else loss_BT.sum() / real.sum()
