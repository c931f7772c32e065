"""GPT-NeoX and Pythia (transformers' model_type "gpt_neox"), read as plain models.

Their fused query_key_value holds, head after head, that head's query, key and value rows: [N, 3, K]. Ours holds all
queries, then all keys, then all values: [3, N, K].
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from model.checkpoints.fields import ConfigFile, refuse_scaled_rotary
from model.checkpoints.layout import ZERO, Layout, Source, check_tied, layer_count
from model.checkpoints.tensors import WeightFiles
from model.config import DCFormerConfig
from model.transformer import HookedDCFormer

# transformers' names of one function each: the exact GELU, and its tanh approximation
ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_new", "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new", "silu": "silu", "swish": "silu",
}  # fmt: skip

# masks and rotary tables that older versions of transformers stored
_DERIVED = re.compile(
    r"gpt_neox\.(layers\.(?P<layer>\d+)\.attention\.(bias|masked_bias|rotary_emb\..+)|rotary_emb\..+)"
)

_EMBEDDING, _UNEMBEDDING = "gpt_neox.embed_in.weight", "embed_out.weight"


def read_config(config: ConfigFile, weights: WeightFiles) -> DCFormerConfig:
    config.only("quantization_config")
    refuse_scaled_rotary(config)
    layers = layer_count(config, "num_hidden_layers", weights)
    width, heads = config.whole("hidden_size"), config.whole("num_attention_heads")
    if width % heads:
        raise config.error("hidden_size", f"a multiple of num_attention_heads={heads}")
    d_head = width // heads
    return DCFormerConfig.from_architecture(
        "neox", compose=False, use_qk_norm=False, n_layers=layers, d_model=width, n_heads=heads, d_head=d_head,
        n_ctx=config.whole("max_position_embeddings"), d_vocab=config.whole("vocab_size"),
        d_mlp=config.whole("intermediate_size"), eps=config.positive("layer_norm_eps", default=1e-5),
        act_fn=ACTIVATIONS[config.choice("hidden_act", tuple(ACTIVATIONS), default="gelu")],
        parallel_attn_mlp=config.flag("use_parallel_residual", default=True),
        eos_token_id=config.end_token(),
        tie_embeddings=check_tied(config, weights, _EMBEDDING, _UNEMBEDDING),
        **_rotary(config, d_head),
    )  # fmt: skip


def _rotary(config: ConfigFile, d_head: int) -> dict[str, Any]:
    """Base and width, under transformers 5's names (inside rope_parameters) or the older ones beside them."""
    nested = ConfigFile(config.path, config.values.get("rope_parameters") or {})
    share = nested.positive("partial_rotary_factor", config.positive("rotary_pct", default=0.25))
    base = nested.positive("rope_theta", config.positive("rotary_emb_base", default=10000.0))
    return {"rotary_dim": int(d_head * share), "rotary_base": base}


def sources(model: HookedDCFormer, config: ConfigFile, weights: WeightFiles) -> dict[str, Source]:
    cfg = model.cfg
    found = {"embed.W_E": Source((_EMBEDDING,))} | _norm("ln_final", "gpt_neox.final_layer_norm")
    if not cfg.tie_embeddings:
        found["unembed.weight"] = Source((_UNEMBEDDING,))
    # attention_bias: false leaves out these biases and keeps those of the MLP; ours are zero then
    attention_bias = config.flag("attention_bias", default=True)
    for layer in range(cfg.n_layers):
        ours, theirs = f"blocks.{layer}", f"gpt_neox.layers.{layer}"
        found |= _norm(f"{ours}.ln1", f"{theirs}.input_layernorm")
        found |= _attention(cfg, f"{ours}.attn", f"{theirs}.attention", attention_bias)
        found |= _norm(f"{ours}.ln2", f"{theirs}.post_attention_layernorm")
        for our_linear, their_linear in (("w_in", "dense_h_to_4h"), ("w_out", "dense_4h_to_h")):
            for kind in ("weight", "bias"):
                found[f"{ours}.mlp.{our_linear}.{kind}"] = Source((f"{theirs}.mlp.{their_linear}.{kind}",))
    return found


def _norm(ours: str, theirs: str) -> dict[str, Source]:
    return {f"{ours}.w": Source((f"{theirs}.weight",)), f"{ours}.b": Source((f"{theirs}.bias",))}


def _attention(cfg: DCFormerConfig, ours: str, theirs: str, has_bias: bool) -> dict[str, Source]:
    heads = cfg.n_heads

    def by_kind(rows: Tensor) -> Tensor:
        return rows.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)

    def by_head(rows: Tensor) -> tuple[Tensor, ...]:
        return (rows.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2),)

    found: dict[str, Source] = {}
    for kind in ("weight", "bias"):
        stored = kind == "weight" or has_bias
        fused = Source((f"{theirs}.query_key_value.{kind}",), by_kind, by_head)
        found[f"{ours}.wqkv.{kind}"] = fused if stored else ZERO
        found[f"{ours}.wo.{kind}"] = Source((f"{theirs}.dense.{kind}",)) if stored else ZERO
    return found


def is_derived(name: str, cfg: DCFormerConfig) -> bool:
    if name == _UNEMBEDDING and cfg.tie_embeddings:
        return True
    match = _DERIVED.fullmatch(name)
    return match is not None and int(match["layer"] or 0) < cfg.n_layers


LAYOUT = Layout("neox", ("gpt_neox",), read_config, sources, is_derived)
