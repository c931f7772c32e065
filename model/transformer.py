"""Blocks, and HookedDCFormer: the whole model with a hook point on every activation.

Axes: B batch, T position, D d_model, F d_mlp, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from model.attention import ComposedAttention
from model.config import DCFormerConfig
from model.functional import activate, next_token_loss, norm_scale, rotary_tables
from model.generation import generate
from model.initialise import initialise
from model.key_cache import KeyCache
from model.lens import LensTools
from model.taps import Tap, Taps
from model.text import TextTools

ReturnType = Literal["logits", "loss", "both"] | None


class Norm(nn.Module):
    """RMSNorm or LayerNorm. hook_scale: the divisor, [batch, pos, 1]; hook_normalized: x / scale, before the weight."""

    def __init__(self, cfg: DCFormerConfig):
        super().__init__()
        self.eps, self.centred = cfg.eps, cfg.normalization_type == "LN"
        self.w = nn.Parameter(torch.empty(cfg.d_model, dtype=cfg.dtype))
        if self.centred:
            self.b = nn.Parameter(torch.empty(cfg.d_model, dtype=cfg.dtype))
        self.hook_scale, self.hook_normalized = HookPoint(), HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        wide, scale = norm_scale(x, self.eps, self.centred)
        normalized = self.hook_normalized((wide / self.hook_scale(scale)).to(x.dtype))
        return normalized * self.w + self.b if self.centred else normalized * self.w


class MLP(nn.Module):
    """Position-wise MLP. hook_post is what W_out reads.

    hook_pre: before the activation; gated models also have hook_pre_linear, what the activation multiplies;
    with mgate, hook_mgate holds the softmax weights of the groups, [batch, pos, group].
    """

    zero_bias: Tensor

    def __init__(self, cfg: DCFormerConfig):
        super().__init__()
        self.cfg = cfg
        d_mlp = int(cfg.d_mlp or 0)
        self.w_in = nn.Linear(cfg.d_model, d_mlp, bias=cfg.use_bias, dtype=cfg.dtype)
        self.w_out = nn.Linear(d_mlp, cfg.d_model, bias=cfg.use_bias, dtype=cfg.dtype)
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()
        if cfg.gated_mlp:
            self.w_gate = nn.Linear(cfg.d_model, d_mlp, bias=cfg.use_bias, dtype=cfg.dtype)
            self.hook_pre_linear = HookPoint()
        if cfg.mgate_groups is not None:
            self.w_mgate = nn.Linear(cfg.d_model, cfg.mgate_groups, bias=False, dtype=cfg.dtype)
            self.hook_mgate = HookPoint()
        if not cfg.use_bias:
            self.register_buffer("zero_bias", torch.zeros(d_mlp + cfg.d_model, dtype=cfg.dtype), persistent=False)

    W_in = property(lambda self: self.w_in.weight.T, doc="[d_model, d_mlp]")
    W_out = property(lambda self: self.w_out.weight.T, doc="[d_mlp, d_model]")
    W_gate = property(lambda self: self.w_gate.weight.T, doc="[d_model, d_mlp], gated models only")
    b_in = property(lambda self: self.w_in.bias if self.cfg.use_bias else self.zero_bias[: self.cfg.d_mlp])
    b_out = property(lambda self: self.w_out.bias if self.cfg.use_bias else self.zero_bias[self.cfg.d_mlp :])

    def forward(self, x_BTD: Tensor) -> Tensor:
        if self.cfg.gated_mlp:
            post_BTF = activate(self.cfg.act_fn, self.hook_pre(self.w_gate(x_BTD))) * self.hook_pre_linear(
                self.w_in(x_BTD)
            )
        else:
            post_BTF = activate(self.cfg.act_fn, self.hook_pre(self.w_in(x_BTD)))
        if self.cfg.mgate_groups is not None:
            weights = self.hook_mgate(self.w_mgate(x_BTD).softmax(-1))
            post_BTF = (post_BTF.unflatten(-1, (self.cfg.mgate_groups, -1)) * weights[..., None]).flatten(-2)
        return self.w_out(self.hook_post(post_BTF))


class Block(nn.Module):
    """Attention and MLP on the residual stream, one after the other or, with parallel_attn_mlp, side by side.

    In parallel blocks the MLP reads the block's input, so hook_resid_mid (input + attention) is passed on
    to the block's output but not to the MLP.
    """

    hook_out_is_single_residual_stream = True

    def __init__(self, cfg: DCFormerConfig, layer: int, taps: Taps):
        super().__init__()
        self.parallel = cfg.parallel_attn_mlp
        self.ln1, self.attn = Norm(cfg), ComposedAttention(cfg, layer, taps)
        self.ln2, self.mlp = Norm(cfg), MLP(cfg)
        self.hook_resid_pre, self.hook_attn_out, self.hook_resid_mid = HookPoint(), HookPoint(), HookPoint()
        self.hook_mlp_out, self.hook_resid_post = HookPoint(), HookPoint()

    def forward(
        self, resid_BTD: Tensor, rotary: tuple[Tensor, Tensor] | None, key_mask: Tensor | None, cache: KeyCache | None
    ) -> Tensor:
        pre = self.hook_resid_pre(resid_BTD)
        mid = self.hook_resid_mid(pre + self.hook_attn_out(self.attn(self.ln1(pre), rotary, key_mask, cache)))
        return self.hook_resid_post(mid + self.hook_mlp_out(self.mlp(self.ln2(pre if self.parallel else mid))))


class Embed(nn.Module):
    """Token embedding, W_E [d_vocab, d_model]."""

    def __init__(self, cfg: DCFormerConfig):
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model, dtype=cfg.dtype))

    def forward(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.W_E)


class PosEmbed(nn.Module):
    """A learned vector for each position, W_pos [n_ctx, d_model]."""

    def __init__(self, cfg: DCFormerConfig):
        super().__init__()
        self.W_pos = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model, dtype=cfg.dtype))

    def forward(self, positions: Tensor) -> Tensor:
        return F.embedding(positions, self.W_pos)


class Unembed(nn.Module):
    """Residual stream to logits; W_U is [d_model, d_vocab]. b_U is zero: no supported model has one."""

    def __init__(self, cfg: DCFormerConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model, dtype=cfg.dtype))
        self.register_buffer("b_U", torch.zeros(cfg.d_vocab, dtype=cfg.dtype), persistent=False)

    W_U = property(lambda self: self.weight.T, doc="[d_model, d_vocab]")

    def forward(self, resid: Tensor) -> Tensor:
        return F.linear(resid, self.weight)


class HookedDCFormer(LensTools, TextTools, HookedRootModule):
    """A DCFormer (or, with composition off, a plain transformer) whose every activation can be read and edited.

    A transformer_lens.HookedRootModule that satisfies TransformerLensModelWithWeights: run_with_hooks,
    run_with_cache, patching, head detection and the decompositions of ActivationCache run on it. Hook names
    are TransformerLens's; those of head mixing are documented on ComposedAttention and MixingSite.

    Args:
        cfg: the architecture.
        tokenizer: a transformers tokenizer, or None for a model that takes token ids only.
        seed: initialise random weights from this seed. None leaves the weights unset, for a loader.
    """

    cfg: DCFormerConfig

    def __init__(self, cfg: DCFormerConfig, tokenizer: Any = None, seed: int | None = 0):
        super().__init__()
        self.cfg, self.tokenizer, self.taps = cfg, tokenizer, Taps()
        device = (
            torch.get_default_device() if torch.get_default_device().type == "meta" else torch.device(str(cfg.device))
        )
        with device:
            self.embed = Embed(cfg)
            self.hook_embed = HookPoint()
            if cfg.positional_embedding_type == "standard":
                self.pos_embed = PosEmbed(cfg)
                self.hook_pos_embed = HookPoint()
            self.blocks = nn.ModuleList(Block(cfg, layer, self.taps) for layer in range(cfg.n_layers))
            self.ln_final = Norm(cfg)
            self.unembed = Unembed(cfg)
            if cfg.tie_embeddings:
                self.unembed.weight = self.embed.W_E
        if seed is not None and device.type != "meta":
            initialise(self, seed)
        self.setup()
        self.eval()

    # Python 3.12 looks the members of a protocol up on the class, where nn.Module keeps no children
    blocks = property(lambda self: self._modules["blocks"])  # type: ignore[assignment]
    ln_final = property(lambda self: self._modules["ln_final"])  # type: ignore[assignment]

    def forward(
        self,
        input: str | Sequence[str] | Tensor,
        return_type: ReturnType = "logits",
        *,
        attention_mask: Tensor | None = None,
        stop_at_layer: int | None = None,
        prepend_bos: bool | None = None,
        loss_per_token: bool = False,
        caches: list[KeyCache] | None = None,
    ) -> Any:
        """Run the model.

        Args:
            input: text, several texts (padded on the left to one length), or token ids [batch, pos] or [pos].
            return_type: "logits" [batch, pos, d_vocab], "loss" (mean next-token cross-entropy in nats),
                "both" (logits, loss), or None.
            attention_mask: [batch, pos], 0 on padding, which must stand on the left. Made here for texts.
            stop_at_layer: return the residual stream entering this layer, [batch, pos, d_model]; negative
                counts from the end.
            prepend_bos: start texts with the BOS token; None = as the tokenizer's own configuration says.
            loss_per_token: the loss of each next token, [batch, pos - 1], instead of the mean.
            caches: keys of earlier steps, one KeyCache a layer; the mask then covers cached and new tokens.
        Raises:
            ValueError: an empty input, ids outside the vocabulary, more tokens than the context, text
                without a tokenizer.
        """
        tokens, mask = self.to_tokens_and_mask(input, prepend_bos, attention_mask)
        past = caches[0].length if caches else 0
        self.check_tokens(tokens, mask, past)
        last_layer = self._resolve_stop(stop_at_layer)
        positions = self.positions(tokens, mask, past)
        resid = self.hook_embed(self.embed(tokens))
        rotary = None
        if self.cfg.positional_embedding_type == "standard":
            # a copy for each sequence: tools write into what a hook hands out
            resid = resid + self.hook_pos_embed(self.pos_embed(positions.expand(tokens.shape[0], -1)))
        else:
            rotary = rotary_tables(positions, self.cfg.rotary_width, self.cfg.rotary_base, self.cfg.dtype)
        for layer, block in enumerate(self.blocks[:last_layer]):
            resid = block(resid, rotary, mask, caches[layer] if caches else None)
        if stop_at_layer is not None:
            return resid
        if return_type is None:
            return None
        logits = self.unembed(self.ln_final(resid))
        if return_type == "logits":
            return logits
        if return_type not in ("loss", "both"):
            raise ValueError(f"return_type must be 'logits', 'loss', 'both' or None, got {return_type!r}.")
        if tokens.shape[1] < 2:
            raise ValueError("A next-token loss needs at least 2 tokens, got 1. Give a longer input.")
        loss = next_token_loss(logits, tokens, mask, loss_per_token)
        return loss if return_type == "loss" else (logits, loss)

    generate = generate

    @contextmanager
    def tapped(self, *taps: Tap) -> Iterator[HookedDCFormer]:
        """Call functions on every layer's LayerActivations while the block runs, after its hooks, in the order given.

        A tap reads them, or replaces some. It costs nothing where it copies nothing. The model's engines call the
        same taps.
        """
        with self.taps.added(*taps):
            yield self

    def positions(self, tokens: Tensor, mask: Tensor | None, past: int) -> Tensor:
        """Position of each token in its own sequence, [batch or 1, pos]: padding does not count."""
        if mask is None:
            return torch.arange(past, past + tokens.shape[1], device=tokens.device)[None]
        return (mask.long().cumsum(1) - 1).clamp(min=0)[:, past:]

    def _resolve_stop(self, stop_at_layer: int | None) -> int:
        layers = self.cfg.n_layers
        if stop_at_layer is None:
            return layers
        resolved = stop_at_layer + layers if stop_at_layer < 0 else stop_at_layer
        if not 0 <= resolved <= layers:
            raise ValueError(f"stop_at_layer={stop_at_layer} does not exist in a model of {layers} layers.")
        return resolved

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Keep cfg.device and cfg.dtype true after .to(), .double(), .cuda() ..."""
        super()._apply(fn, recurse)
        weight = self.embed.W_E
        self.cfg.device, self.cfg.dtype = str(weight.device), weight.dtype
        if self.cfg.tie_embeddings:
            self.unembed.weight = self.embed.W_E
        return self
