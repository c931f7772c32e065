"""A decoding step from a layer's input to its attention in few launches, where Triton's kernels hold such a layer.

Three projections, then one kernel for norms, rotary and the cache's keys and values, and one for all mixing factors.
Written with PyTorch's own functions the same takes about fifty launches a layer, most of a step's time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import ComposedAttention
from model.config import SITES, DCFormerConfig
from model.functional import QK_NORM_EPS
from model.key_cache import KeyCache, Place, Seen
from model.mixing import DOWN_NORM_EPS, KEY_FACTORS, Mixing


def holds(cfg: DCFormerConfig, dtype: torch.dtype) -> bool:
    """Can fused_inputs run such a layer? All published models: both sites and sides, one group, no static matrix."""
    mixed = cfg.mixed_sites == SITES and len(cfg.dynamic_sides) == 2 and not cfg.static_mixing and cfg.groups == 1
    turned = cfg.use_qk_norm and cfg.positional_embedding_type == "rotary"
    powers = all(size & (size - 1) == 0 for size in (cfg.n_heads, cfg.mixing_hidden))
    return mixed and turned and powers and dtype != torch.float64


def fused_inputs(
    attn: ComposedAttention, x_B1D: Tensor, rotary: tuple[Tensor, Tensor], cache: KeyCache, at: Place
) -> tuple[Seen, Tensor]:
    """KeyCache.place for a layer that `holds`, from its normalised input: what its query sees, and the query."""
    from model.backends.triton_step import write_factors, write_heads

    store, x = cache.store, x_B1D[:, 0]
    projected = F.linear(x, attn.wqkv.weight, attn.wqkv.bias)
    hidden, gates = (F.linear(x, weight.flatten(0, -2)) for weight in (attn.mix_hidden, attn.mix_gates))
    norms = attn.q_norm, attn.k_norm
    q = write_heads(projected, at.slot, rotary, norms, store["k"], store["v"], QK_NORM_EPS)
    keys = [tuple(store[f"{site}.{name}"] for name in KEY_FACTORS) for site in SITES]
    queries = write_factors(hidden, gates, attn.mix_factors, at.slot, keys, DOWN_NORM_EPS)  # type: ignore[arg-type]
    sites = {
        site: Mixing(attn.cfg.n_heads, query_down=down, query_up=up, query_gate=gate)
        for site, (down, up, gate) in zip(SITES, queries, strict=True)
    }
    return cache.all_slots(sites, at), q
