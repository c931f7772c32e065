"""A second implementation of the whole model in NumPy and float64, written from the formulas with plain loops.

Slow and literal on purpose: it shares no code with the package, so an agreement means something.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from model import HookedDCFormer

Arrays = dict[str, np.ndarray]


def forward(model: HookedDCFormer, tokens: list[int]) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Logits [pos, d_vocab] and, for each layer, its maps [head, query, key] and mixing matrices by (site, i, j)."""
    cfg, w = model.cfg, {name: _array(value) for name, value in model.state_dict().items()}
    resid = w["embed.W_E"][tokens]
    if cfg.positional_embedding_type == "standard":
        resid = resid + w["pos_embed.W_pos"][: len(tokens)]
    layers = []
    for layer in range(cfg.n_layers):
        own = {name.removeprefix(f"blocks.{layer}."): v for name, v in w.items() if name.startswith(f"blocks.{layer}.")}
        attention, seen = _attention(cfg, own, _norm(cfg, own, "ln1", resid), cfg.keys_visible_in(layer))
        middle = resid + attention
        mlp_input = resid if cfg.parallel_attn_mlp else middle
        resid = middle + _mlp(cfg, own, _norm(cfg, own, "ln2", mlp_input))
        layers.append(seen)
    final = _norm(cfg, w, "ln_final", resid)
    return final @ w["unembed.weight"].T, layers


def mixing_matrix(cfg: Any, w: Arrays, x: np.ndarray, site: str, query: int, key: int) -> np.ndarray:
    """M(query, key) of one site from the layer's normalised input, by loops over groups, channels and heads."""
    H, G, R = cfg.n_heads, cfg.groups, cfg.rank
    N = H // G
    out = np.eye(H)
    if site not in cfg.mixed_sites:
        return out
    if cfg.static_mixing:
        for g in range(G):
            out[g * N : (g + 1) * N, g * N : (g + 1) * N] += w[f"attn.{site}.static_blocks"][g]
    networks = [(s, side) for s in cfg.mixed_sites for side in cfg.dynamic_sides]
    for side, position in (("query", query), ("key", key)):
        if side not in cfg.dynamic_sides:
            continue
        c = networks.index((site, side))
        gate = np.tanh(w["attn.mix_gates"][c] @ x[position])
        for g in range(G):
            hidden = _gelu(w["attn.mix_hidden"][c, g] @ x[position])
            both = np.einsum("k,krn->rn", hidden, w["attn.mix_factors"][c, g])
            for r in range(R):
                down, up = both[r], both[R + r]
                down = down / math.sqrt((down**2).mean() + 1e-6)
                for source in range(N):
                    for target in range(N):
                        out[g * N + source, g * N + target] += down[source] * up[target]
        out += np.diag(gate)
    return out


def _attention(cfg: Any, w: Arrays, x: np.ndarray, window: int | None) -> tuple[np.ndarray, dict[str, Any]]:
    T, H, K = len(x), cfg.n_heads, cfg.d_head
    qkv = x @ w["attn.wqkv.weight"].T + w.get("attn.wqkv.bias", 0.0)
    q, k, v = qkv.reshape(T, 3, H, K).transpose(1, 2, 0, 3)  # each [H, T, K]
    if cfg.use_qk_norm:
        q, k = (_rms(a, 1e-6) * w[f"attn.{name}"] for a, name in ((q, "q_norm"), (k, "k_norm")))
    q, k = (_rotate(cfg, a) for a in (q, k))
    maps = {name: np.zeros((H, T, T)) for name in ("scores_raw", "scores_composed", "pattern_raw", "pattern_composed")}
    matrices = {}
    for i in range(T):
        for j in range(T):
            maps["scores_raw"][:, i, j] = (q[:, i] * k[:, j]).sum(-1) / math.sqrt(K)
            for site in ("pre", "post"):
                matrices[site, i, j] = mixing_matrix(cfg, w, x, site, i, j)
            allowed = j <= i and (window is None or i - j < window)
            composed = maps["scores_raw"][:, i, j] @ matrices["pre", i, j]
            maps["scores_composed"][:, i, j] = composed if allowed else -np.inf
        maps["pattern_raw"][:, i] = _softmax(maps["scores_composed"][:, i])
        for j in range(T):
            maps["pattern_composed"][:, i, j] = maps["pattern_raw"][:, i, j] @ matrices["post", i, j]
    z = np.einsum("hij,hjk->ihk", maps["pattern_composed"], v).reshape(T, H * K)
    return z @ w["attn.wo.weight"].T + w.get("attn.wo.bias", 0.0), maps | {"matrices": matrices}


def _mlp(cfg: Any, w: Arrays, x: np.ndarray) -> np.ndarray:
    def linear(name: str, a: np.ndarray) -> np.ndarray:
        return a @ w[f"mlp.{name}.weight"].T + w.get(f"mlp.{name}.bias", 0.0)

    act = {"silu": lambda a: a / (1 + np.exp(-a)), "gelu": _gelu}[cfg.act_fn]
    hidden = act(linear("w_gate", x)) * linear("w_in", x) if cfg.gated_mlp else act(linear("w_in", x))
    if cfg.mgate_groups:
        share = _softmax(linear("w_mgate", x))
        width = hidden.shape[1] // cfg.mgate_groups
        for g in range(cfg.mgate_groups):
            hidden[:, g * width : (g + 1) * width] *= share[:, g : g + 1]
    return linear("w_out", hidden)


def _norm(cfg: Any, w: Arrays, name: str, x: np.ndarray) -> np.ndarray:
    if cfg.normalization_type == "LN":
        x = x - x.mean(-1, keepdims=True)
    return _rms(x, cfg.eps) * w[f"{name}.w"] + w.get(f"{name}.b", 0.0)


def _rms(x: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def _rotate(cfg: Any, a: np.ndarray) -> np.ndarray:
    width = cfg.rotary_width
    out = a.copy()
    for t in range(a.shape[1]):
        for d in range(width // 2):
            angle = t / cfg.rotary_base ** (2 * d / width)
            one, two = a[:, t, d], a[:, t, d + width // 2]
            out[:, t, d] = one * math.cos(angle) - two * math.sin(angle)
            out[:, t, d + width // 2] = two * math.cos(angle) + one * math.sin(angle)
    return out


def _softmax(a: np.ndarray) -> np.ndarray:
    shifted = np.exp(a - a.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


_gelu = np.vectorize(lambda a: 0.5 * a * (1 + math.erf(a / math.sqrt(2))))


def _array(value: Tensor) -> np.ndarray:
    return value.detach().double().numpy()
