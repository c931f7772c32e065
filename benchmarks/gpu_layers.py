"""Whole models of the published 2.8B and 6.9B shapes, from random weights and the numerical core alone.

The same functions and weights run composed (heads mixed on both sides of the softmax) and plain (PyTorch's fused
attention of the same heads). Nothing but torch is needed, so a GPU machine needs no other package.
Axes: B batch, T query, S key, H head, K d_head, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.backends import composed_attention
from model.functional import QK_NORM_EPS, activate, rotary_tables, rotate
from model.mixing import Mixing, second_layers

VOCABULARY = 50257
Weights = dict[str, Tensor]
Factors = list[tuple[Tensor, Tensor, Tensor]]
"""(down, up, gate) of the four mixing networks: pre query, pre key, post query, post key. Empty in a plain model."""


@dataclass(frozen=True)
class Shape:
    """A published architecture. Every other layer is local; heads rotate in their first rotary_width dimensions."""

    name: str
    d_model: int
    d_mlp: int
    rotary_width: int
    gated: bool
    act_fn: str
    parallel: bool
    centred_norm: bool
    layers: int = 32
    heads: int = 32
    rank: int = 2
    window: int = 256

    @property
    def d_head(self) -> int:
        return self.d_model // self.heads

    def visible_keys(self, layer: int) -> int | None:
        return self.window if layer % 2 == 0 else None


SHAPES = {
    "dcformer-2.8b": Shape("dcformer-2.8b", 2560, 6912, 80, True, "silu", False, False),
    "dcpythia-6.9b": Shape("dcpythia-6.9b", 4096, 16384, 32, False, "gelu", True, True),
}


def layer_shapes(shape: Shape, composed: bool) -> dict[str, tuple[int, ...]]:
    """The weights of one layer. Biases are left out: they cost nothing that could be measured."""
    D, H, R = shape.d_model, shape.heads, shape.rank
    hidden = 2 * R * H
    shapes: dict[str, tuple[int, ...]] = {
        "wqkv": (3 * D, D), "wo": (D, D), "w_in": (shape.d_mlp, D), "w_out": (D, shape.d_mlp),
        "q_norm": (shape.d_head,), "k_norm": (shape.d_head,), "norm_1": (D,), "norm_2": (D,),
    }  # fmt: skip
    if shape.gated:
        shapes["w_gate"] = (shape.d_mlp, D)
    if composed:
        # mix_in: the networks' hidden layers, then their gates
        shapes |= {"mix_in": (4 * hidden + 4 * H, D), "mix_factors": (4, 1, hidden, 2 * R, H)}
    return shapes


def before_attention(
    shape: Shape, w: Weights, resid_BTD: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Queries, keys and values [B, T, H, K] of a layer, and the mixing networks' first products where it has some."""
    x = _norm(shape, resid_BTD, w["norm_1"])
    q, k, v = F.linear(x, w["wqkv"]).unflatten(-1, (3, shape.heads, shape.d_head)).unbind(2)
    q, k = (F.rms_norm(a, a.shape[-1:], w[name], QK_NORM_EPS) for a, name in ((q, "q_norm"), (k, "k_norm")))
    mixed = F.linear(x, w["mix_in"]) if "mix_in" in w else None
    return rotate(q, cos, sin), rotate(k, cos, sin), v, mixed


def factors_of(shape: Shape, w: Weights, mixed_BTP: Tensor | None, backend: str) -> Factors:
    """Mixing factors from the networks' first products; by a kernel of its own beside the triton backend."""
    if mixed_BTP is None:
        return []
    hidden, gates = mixed_BTP[..., : -4 * shape.heads], mixed_BTP[..., -4 * shape.heads :]
    if backend == "triton":
        from model.backends.triton_mixing import second_layers as in_one_launch

        return in_one_launch(hidden, gates, w["mix_factors"])
    return second_layers(hidden, gates, w["mix_factors"])


def after_attention(shape: Shape, w: Weights, resid_BTD: Tensor, z_BTHK: Tensor) -> Tensor:
    """The residual stream after a layer."""
    middle = resid_BTD + F.linear(z_BTHK.flatten(2), w["wo"])
    x = _norm(shape, resid_BTD if shape.parallel else middle, w["norm_2"])
    inward = F.linear(x, w["w_in"])
    post = activate(shape.act_fn, F.linear(x, w["w_gate"])) * inward if shape.gated else activate(shape.act_fn, inward)
    return middle + F.linear(post, w["w_out"])


def _norm(shape: Shape, x: Tensor, weight: Tensor) -> Tensor:
    if shape.centred_norm:
        return F.layer_norm(x, x.shape[-1:], weight, None, 1e-5)
    return F.rms_norm(x, x.shape[-1:], weight, 1e-6)


def mixings(heads: int, factors: Factors) -> tuple[Mixing, Mixing]:
    """The two sites' mixing; the identity without factors."""
    if not factors:
        return Mixing(heads), Mixing(heads)
    names = [f"{side}_{part}" for side in ("query", "key") for part in ("down", "up", "gate")]
    pre, post = (dict(zip(names, [*query, *key], strict=True)) for query, key in (factors[:2], factors[2:]))
    return Mixing(heads, **pre), Mixing(heads, **post)  # type: ignore[arg-type]


class Stack:
    """A model's weights and its forward pass. compiled: what surrounds attention runs as two compiled graphs."""

    def __init__(self, shape: Shape, device: torch.device, compiled: bool, layers: int | None = None,
                 dtype: torch.dtype = torch.bfloat16):  # fmt: skip
        self.shape, self.device, self.dtype = shape, device, dtype
        generator = torch.Generator(device).manual_seed(0)

        def random(*size: int) -> Tensor:
            if len(size) == 1:  # norms
                return torch.ones(size, device=device, dtype=dtype)
            weight = torch.empty(size, device=device, dtype=dtype)
            return weight.normal_(0, 0.02, generator=generator)

        count = shape.layers if layers is None else layers
        self.layers = [{n: random(*s) for n, s in layer_shapes(shape, True).items()} for _ in range(count)]
        self.embedding, self.unembedding = (random(VOCABULARY, shape.d_model) for _ in range(2))
        self.final_norm = random(shape.d_model)
        self.before: Callable[..., Any] = before_attention
        self.after: Callable[..., Any] = after_attention
        if compiled:
            self.before, self.after = (torch.compile(f) for f in (before_attention, after_attention))

    def weights(self, layer: int, composed: bool) -> Weights:
        """A layer's weights; a plain model has those of mixing too, but does not see them."""
        return {name: w for name, w in self.layers[layer].items() if composed or not name.startswith("mix_")}

    def nbytes(self, composed: bool) -> int:
        """Bytes that one decoding step reads: all weights but the embedding."""
        read = [w for layer in range(len(self.layers)) for w in self.weights(layer, composed).values()]
        return sum(w.nbytes for w in [*read, self.unembedding])

    def numbers(self) -> int:
        """Weights of the plain model's layers, each of which multiplies every token once."""
        return sum(w.numel() for layer in range(len(self.layers)) for w in self.weights(layer, False).values())

    @torch.no_grad()
    def prefill(self, tokens_BT: Tensor, backend: str | None) -> Tensor:
        """Logits of the last position, [B, vocabulary]. backend None: plain, PyTorch's fused attention, no windows."""
        positions = torch.arange(tokens_BT.shape[1], device=self.device)[None]
        cos, sin = rotary_tables(positions, self.shape.rotary_width, 10000.0, self.dtype)
        resid = F.embedding(tokens_BT, self.embedding)
        for layer in range(len(self.layers)):
            w = self.weights(layer, backend is not None)
            for varying in (resid, cos, sin):  # one compiled graph for all lengths
                torch._dynamo.maybe_mark_dynamic(varying, 1)
            q, k, v, mixed = self.before(self.shape, w, resid, cos, sin)
            if backend is None:
                z = fused_attention(q, k, v)
            else:
                pre, post = mixings(self.shape.heads, factors_of(self.shape, w, mixed, backend))
                visible = self.shape.visible_keys(layer)
                z = composed_attention(q, k, v, pre, post, visible_keys=visible, backend=backend)
            torch._dynamo.maybe_mark_dynamic(z, 1)
            resid = self.after(self.shape, w, resid, z)
        return self.logits(resid[:, -1])

    def logits(self, resid_BD: Tensor) -> Tensor:
        return F.linear(_norm(self.shape, resid_BD, self.final_norm), self.unembedding)


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """PyTorch's fused attention of [B, T, H, K]: causal, or masked."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None).transpose(1, 2)
