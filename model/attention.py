"""The attention layer: parameters and hook points around the pure functions of mixing.py and backends/.

Axes: B batch, T query, S key, N head, K d_head, D d_model, C mixing network, R rank, G group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from model.backends import composed_attention
from model.backends.eager import attention_scores, in_dtype, visibility
from model.config import SITES, DCFormerConfig
from model.functional import QK_NORM_EPS, masked_softmax, rms_norm, rotate
from model.key_cache import KeyCache, Seen
from model.mixing import Mixing, compose, second_layers
from model.taps import LayerActivations, Taps

SecondLayers = Callable[[Tensor, Tensor, Tensor], list[tuple[Tensor, Tensor, Tensor]]]
"""What computes model.mixing.second_layers."""

BySide = Mapping[str, tuple[Tensor, Tensor, Tensor]]
"""Side ("query", "key") -> its down, up and gate for every token."""


class MixingSite(nn.Module):
    """One site of a layer: the hook points of its factors, and its static W where the model has one.

    hook_{query,key}_{down,up}: [batch, pos, R, H] ([batch, pos, G, R, H/G] with groups);
    hook_{query,key}_gate: [batch, pos, H]. down is caught after its normalisation, gate after tanh.
    """

    def __init__(self, cfg: DCFormerConfig):
        super().__init__()
        self.cfg = cfg
        for side in cfg.dynamic_sides:
            for kind in ("down", "up", "gate"):
                self.add_module(f"hook_{side}_{kind}", HookPoint())
        if cfg.static_mixing:
            size = cfg.heads_per_group
            self.static_blocks = nn.Parameter(torch.empty(cfg.groups, size, size, dtype=cfg.dtype))

    def static(self) -> Tensor | None:
        """The learned W of base = I + W, [H, H], or None."""
        return torch.block_diag(*self.static_blocks) if self.cfg.static_mixing else None

    def forward(self, by_side: BySide) -> Mixing:
        """The mixing of this site from each side's (down, up, gate), each passed through its hook point."""
        return self.mixing(by_side, lambda name, factor: self.get_submodule(f"hook_{name}")(factor))

    def mixing(self, by_side: BySide, watch: Callable[[str, Tensor], Tensor] = lambda name, factor: factor) -> Mixing:
        """The same without hooks."""
        watched = {
            f"{side}_{kind}": watch(f"{side}_{kind}", factor)
            for side, factors in by_side.items()
            for kind, factor in zip(("down", "up", "gate"), factors, strict=True)
        }
        return Mixing(n_heads=self.cfg.n_heads, groups=self.cfg.groups, static=self.static(), **watched)


class ComposedAttention(nn.Module):
    """Multi-head attention with head mixing at the configured sites; plain attention when there are none.

    Hook points, in the order in which they fire:
        hook_q, hook_k, hook_v: the projections, [batch, pos, head, d_head].
        hook_rot_q, hook_rot_k: what enters the dot product: after query/key norm and rotary, where the model has them.
        {pre,post}.hook_*: the factors of the mixing matrices, see MixingSite.
        hook_attn_scores_raw: q . k / sqrt(d_head) of all pairs, masked nowhere, [batch, head, query, key].
        hook_attn_scores: composed scores, -inf where a query may not look: what enters the softmax.
        hook_pattern_raw: after the softmax, before post-mixing.
        hook_pattern: composed pattern, what multiplies the values. Signed; its rows need not sum to 1.
        hook_z: each head's output before W_O, [batch, pos, head, d_head].
        hook_result: each head's output in the residual stream, [batch, pos, head, d_model], computed only
            while it has hooks or cfg.use_attn_result is set; their sum + b_O is then the layer's output.
    In models without mixing at a site the raw and composed hooks of that site see equal maps.
    """

    zero_bias: Tensor

    def __init__(self, cfg: DCFormerConfig, layer: int, taps: Taps):
        super().__init__()
        self.cfg, self.layer, self.taps = cfg, layer, taps
        self.visible_keys = cfg.keys_visible_in(layer)
        width = cfg.n_heads * cfg.d_head
        self.wqkv = nn.Linear(cfg.d_model, 3 * width, bias=cfg.use_bias, dtype=cfg.dtype)
        self.wo = nn.Linear(width, cfg.d_model, bias=cfg.use_bias, dtype=cfg.dtype)
        if not cfg.use_bias:
            # constants for the tools that read them; not weights of the model
            self.register_buffer("zero_bias", torch.zeros(3 * width + cfg.d_model, dtype=cfg.dtype), persistent=False)
        if cfg.use_qk_norm:
            self.q_norm = nn.Parameter(torch.empty(cfg.d_head, dtype=cfg.dtype))
            self.k_norm = nn.Parameter(torch.empty(cfg.d_head, dtype=cfg.dtype))
        self.networks = [(site, side) for site in cfg.mixed_sites for side in cfg.dynamic_sides]
        if self.networks:
            C, G, K, N = len(self.networks), cfg.groups, cfg.mixing_hidden, cfg.heads_per_group
            self.mix_hidden = nn.Parameter(torch.empty(C, G, K, cfg.d_model, dtype=cfg.dtype))
            self.mix_factors = nn.Parameter(torch.empty(C, G, K, 2 * cfg.rank, N, dtype=cfg.dtype))
            self.mix_gates = nn.Parameter(torch.empty(C, cfg.n_heads, cfg.d_model, dtype=cfg.dtype))
        for site in cfg.mixed_sites:
            self.add_module(site, MixingSite(cfg))
        self.hook_q, self.hook_k, self.hook_v = HookPoint(), HookPoint(), HookPoint()
        self.hook_rot_q, self.hook_rot_k = HookPoint(), HookPoint()
        self.hook_attn_scores_raw, self.hook_attn_scores = HookPoint(), HookPoint()
        self.hook_pattern_raw, self.hook_pattern = HookPoint(), HookPoint()
        self.hook_z, self.hook_result = HookPoint(), HookPoint()
        for hook in self.map_hooks():
            hook.pos_dim = -2

    # -- weights in the shapes TransformerLens's tools read; views, never copies -------------------

    def _head_weight(self, which: int) -> Tensor:
        rows = self.wqkv.weight.unflatten(0, (3, self.cfg.n_heads, self.cfg.d_head))[which]
        return rows.transpose(1, 2)

    def _head_bias(self, which: int) -> Tensor:
        width = 3 * self.cfg.n_heads * self.cfg.d_head
        bias = self.wqkv.bias if self.cfg.use_bias else self.zero_bias[:width]
        return bias.unflatten(0, (3, self.cfg.n_heads, self.cfg.d_head))[which]

    W_Q = property(lambda self: self._head_weight(0), doc="[head, d_model, d_head]")
    W_K = property(lambda self: self._head_weight(1), doc="[head, d_model, d_head]")
    W_V = property(lambda self: self._head_weight(2), doc="[head, d_model, d_head]")
    b_Q = property(lambda self: self._head_bias(0), doc="[head, d_head]")
    b_K = property(lambda self: self._head_bias(1), doc="[head, d_head]")
    b_V = property(lambda self: self._head_bias(2), doc="[head, d_head]")

    @property
    def W_O(self) -> Tensor:
        """[head, d_head, d_model]"""
        return self.wo.weight.unflatten(1, (self.cfg.n_heads, self.cfg.d_head)).permute(1, 2, 0)

    @property
    def b_O(self) -> Tensor:
        """[d_model]"""
        return self.wo.bias if self.cfg.use_bias else self.zero_bias[3 * self.cfg.n_heads * self.cfg.d_head :]

    # -- forward -----------------------------------------------------------------------------------

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        key_mask_BS: Tensor | None = None,
        cache: KeyCache | None = None,
    ) -> Tensor:
        """The layer's output, [batch, pos, d_model].

        Args:
            x_BTD: the block's input after its first norm.
            rotary: cos and sin at the positions of x, or None with learned positions.
            key_mask_BS: bool, False on padding, over cached and new keys together.
            cache: keys of earlier steps, to which the new ones are added.
        """
        q, k, v = self.project(x_BTD, rotary)
        seen, q = self.tapped((q, k, v), self.mixing(x_BTD), key_mask_BS, cache)
        if self.maps_are_watched():
            z = self.attend_with_maps(q, seen)
        else:
            z = composed_attention(q, seen.k, seen.v, seen.pre, seen.post, visible_keys=seen.visible_keys,
                                   query_start=seen.query_start, key_mask_BS=seen.key_mask)  # fmt: skip
        return self.output(self.hook_z(z))

    def project(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys as they enter the dot product, and values, each [batch, pos, head, d_head]."""
        qkv = self.wqkv(x_BTD).unflatten(-1, (3, self.cfg.n_heads, self.cfg.d_head))
        # three single views: the outputs of unbind may not be edited in place under autograd
        q, k, v = self.hook_q(qkv[:, :, 0]), self.hook_k(qkv[:, :, 1]), self.hook_v(qkv[:, :, 2])
        if self.cfg.use_qk_norm:
            q, k = rms_norm(q, self.q_norm, QK_NORM_EPS), rms_norm(k, self.k_norm, QK_NORM_EPS)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        return self.hook_rot_q(q), self.hook_rot_k(k), v

    def tapped(
        self,
        qkv: tuple[Tensor, Tensor, Tensor],
        mixing: dict[str, Mixing],
        key_mask_BS: Tensor | None,
        cache: KeyCache | None,
    ) -> tuple[Seen, Tensor]:
        """What the taps leave: the keys to attend over (with a cache earlier ones too), and the queries."""
        past = 0 if cache is None else cache.length
        found = self.taps(LayerActivations(self.layer, *qkv, mixing, key_mask_BS, past, whole=cache is None))
        if cache is None:
            pre, post = found.mixing["pre"], found.mixing["post"]
            return Seen(found.k, found.v, pre, post, 0, self.visible_keys, key_mask_BS), found.q
        return cache.extend(found.k, found.v, found.mixing, key_mask_BS), found.q

    def mixing(self, x_BTD: Tensor, watched: bool = True, layers: SecondLayers = second_layers) -> dict[str, Mixing]:
        """The factors of both sites, through their hook points if watched; a site without mixing gets the identity."""
        by_site: dict[str, dict[str, tuple[Tensor, Tensor, Tensor]]] = {site: {} for site in self.cfg.mixed_sites}
        if self.networks:
            hidden, gates = (F.linear(x_BTD, weight.flatten(0, -2)) for weight in (self.mix_hidden, self.mix_gates))
            networks = layers(hidden, gates, self.mix_factors)
            for (site, side), factors in zip(self.networks, networks, strict=True):
                by_site[site][side] = factors
        sites = dict.fromkeys(SITES, Mixing(n_heads=self.cfg.n_heads, groups=self.cfg.groups))
        for site, by_side in by_site.items():
            module: MixingSite = getattr(self, site)
            sites[site] = module(by_side) if watched else module.mixing(by_side)
        return sites

    def map_hooks(self) -> tuple[HookPoint, ...]:
        """The four hook points that need a whole map."""
        return self.hook_attn_scores_raw, self.hook_attn_scores, self.hook_pattern_raw, self.hook_pattern

    def maps_are_watched(self) -> bool:
        """Does any hook need a whole map, so that all of it must be built?"""
        return any(hook.has_hooks() for hook in self.map_hooks())

    def attend_with_maps(self, q: Tensor, seen: Seen) -> Tensor:
        """Head outputs by way of the four whole maps, each through its hook point."""
        raw = self.hook_attn_scores_raw(attention_scores(q, seen.k))
        allowed = visibility(q.shape[1], seen.k.shape[1], seen.visible_keys, seen.query_start, seen.key_mask, q.device)
        scores = compose(raw, in_dtype(seen.pre, raw)).masked_fill(~allowed, float("-inf"))
        pattern = self.hook_pattern_raw(masked_softmax(self.hook_attn_scores(scores)))
        pattern = self.hook_pattern(compose(pattern, in_dtype(seen.post, raw)))
        return torch.einsum("bnts,bsnk->btnk", pattern.to(seen.v.dtype), seen.v)

    def output(self, z_BTNK: Tensor) -> Tensor:
        """Head outputs through W_O, summed over heads, plus b_O."""
        if self.cfg.use_attn_result or self.hook_result.has_hooks():
            result = self.hook_result(torch.einsum("btnk,nkd->btnd", z_BTNK, self.W_O))
            return result.sum(2) + self.b_O
        return F.linear(z_BTNK.flatten(2), self.wo.weight, self.wo.bias)
