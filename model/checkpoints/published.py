"""The two published layouts of arXiv 2405.08553: model_type "dcformer" and "dcpythia", read and written.

Axes of their mixing networks: D d_model, G group, C = (pre query, pre key, post query, post key), K hidden,
2R down then up, N head of the group.

Traps, each found by running the published code:
    a local DCFormer layer sees window_size keys, itself included, a local DCPythia layer window_size + 1;
    derived copies (dw_m, qkw_m, sw, caches, masks, rotary tables) stand beside the parameters they come from;
    {pre,post}_proj.w is the identity where there is no static branch, and the W of I + W where there is one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.errors import ModelLoadError
from model.checkpoints.fields import ConfigFile, refuse_scaled_rotary
from model.checkpoints.layout import ZERO, Layout, Source, check_tied, layer_count
from model.checkpoints.tensors import WeightFiles
from model.config import SIDES, SITES, DCFormerConfig, dtype_name, window_pattern
from model.transformer import HookedDCFormer

# "LGL6" is the published short form of one local and one global layer followed by six local ones
WINDOW_PATTERNS = {"LG": "LG", "LGLL": "LGLL", "LGL6": "LGLLLLLL"}

_DYNAMIC = "attention.dyn_w_proj"
_DERIVED = re.compile(
    r"(layers\.(?P<layer>\d+)\.attention\.)?(dyn_w_proj\.(dw_m|qkw_m|sw|(pre|post)_proj\.w)|kv_cache\..+"
    r"|freqs_cis|causal_mask|mask_cache|rotary_emb\..+)"
)


# -- config.json, read -------------------------------------------------------------------------------


def read_config(config: ConfigFile, weights: WeightFiles) -> DCFormerConfig:
    pythia = config.model_type == "dcpythia"
    _refuse_what_would_differ(config, pythia)
    layers = layer_count(config, "n_layer", weights)
    d_model, heads, d_head = _widths(config)
    fields: dict[str, Any] = {
        "n_layers": layers, "d_model": d_model, "n_heads": heads, "d_head": d_head,
        "n_ctx": config.whole("block_size"), "d_vocab": config.whole("vocab_size"), "d_mlp": _d_mlp(config, pythia),
        "eps": config.positive("norm_eps"), "rotary_base": config.positive("rope_base"),
        "use_qk_norm": config.flag("use_qk_norm", default=False), "eos_token_id": config.end_token(),
        "visible_keys": _visible_keys(config, layers, pythia),
        "tie_embeddings": check_tied(config, weights, "tok_embeddings.weight", "output.weight"),
    }  # fmt: skip
    if pythia:
        fields |= {
            "use_bias": config.flag("use_linear_bias", default=True),
            "parallel_attn_mlp": config.flag("use_parallel_residual", default=True),
            "rotary_dim": _rotary_dim(config, d_head),
        }
    elif config.flag("mgate", default=False):
        fields["mgate_groups"] = config.whole("mgate_dim")
    mixing = _mixing_fields(config, weights, layers, heads)
    return DCFormerConfig.from_architecture("neox" if pythia else "llama", **fields, **mixing)


def _refuse_what_would_differ(config: ConfigFile, pythia: bool) -> None:
    config.only("query_wise", False)
    config.only("quantization_config")
    refuse_scaled_rotary(config)
    heads = config.whole("n_head")
    config.only("n_local_heads", heads, -1)  # -1 is the published default: as many as there are heads
    if pythia:
        config.only("mgate", False)
    else:
        config.only("use_linear_bias", False)
        config.only("use_parallel_residual", False)
        config.only("rotary_pct", 1, 1.0)


def _widths(config: ConfigFile) -> tuple[int, int, int]:
    """d_model, n_heads, d_head. The published code divides whatever head_dim says, so the two must agree."""
    width, heads = config.whole("dim"), config.whole("n_head")
    if width % heads:
        raise config.error("dim", f"a multiple of n_head={heads}")
    config.only("head_dim", width // heads)
    return width, heads, width // heads


def _d_mlp(config: ConfigFile, pythia: bool) -> int:
    width = config.whole("dim")
    # where intermediate_size is null: 8/3 of the width for the gated MLP, rounded up to a multiple of 256
    default = 4 * width if pythia else math.ceil(8 * width // 3 / 256) * 256
    return config.whole("intermediate_size", default)


def _rotary_dim(config: ConfigFile, d_head: int) -> int | None:
    width = int(d_head * config.positive("rotary_pct", default=0.25))
    return None if width == d_head else width


def _visible_keys(config: ConfigFile, layers: int, pythia: bool) -> tuple[int | None, ...] | None:
    kind = config.choice("window_type", tuple(WINDOW_PATTERNS), default="LG")
    if "window_size" not in config.values:
        raise config.error("window_size", "the number of keys of a local layer, or null where no layer is local")
    if config.values["window_size"] is None:
        return None
    # DCPythia's published prefill lets a query see window_size keys beside itself
    keys = config.whole("window_size", minimum=0) + 1 if pythia else config.whole("window_size")
    return window_pattern(WINDOW_PATTERNS[kind], keys, layers)


def _mixing_fields(config: ConfigFile, weights: WeightFiles, layers: int, heads: int) -> dict[str, Any]:
    if not config.flag("use_dcmha", default=True):
        return {"compose": False}
    groups, rank = _groups_and_rank(weights, heads)
    static_names = [_static_name(layer, site) for layer in range(layers) for site in SITES]
    static = any(name in weights and not _is_identity(weights, name, heads) for name in static_names)
    return {"groups": groups, "rank": rank, "static_mixing": static}


def _groups_and_rank(weights: WeightFiles, heads: int) -> tuple[int, int]:
    """No key of config.json says them: they are read off the first layer's qkw [G, C, K, 2R, N].

    Where that is missing or fits no model, the published 1 and 2 let the check of all tensors name it.
    """
    entry = weights.entries.get(f"layers.0.{_DYNAMIC}.qkw")
    if entry is not None and len(entry.shape) == 5:
        groups, _, hidden, factor_rows, group_heads = entry.shape
        if groups * group_heads == heads and factor_rows % 2 == 0 and hidden == factor_rows * group_heads:
            return groups, factor_rows // 2
    return 1, 2


def _static_name(layer: int, site: str) -> str:
    return f"layers.{layer}.{_DYNAMIC}.{site}_proj.w"


def _is_identity(weights: WeightFiles, name: str, heads: int) -> bool:
    shape = weights.entries[name].shape
    if len(shape) != 3 or shape[1] != shape[2] or shape[0] * shape[1] != heads:
        return False
    blocks = weights.read(name)
    return bool((blocks == torch.eye(shape[1], dtype=blocks.dtype, device=blocks.device)).all())


# -- tensors, both directions ------------------------------------------------------------------------


def sources(model: HookedDCFormer, config: ConfigFile, weights: WeightFiles) -> dict[str, Source]:
    """Where each of our parameters stands in a published file that was read."""
    return _sources(
        model.cfg,
        split_qkv=lambda prefix: f"{prefix}.wq.weight" in weights,
        # beside a static W, an absent one or the identity of a site without it means W = 0
        static_zero=lambda name: name not in weights or _is_identity(weights, name, model.cfg.n_heads),
    )


def _sources(
    cfg: DCFormerConfig, split_qkv: Callable[[str], bool], static_zero: Callable[[str], bool]
) -> dict[str, Source]:
    found = {"embed.W_E": Source(("tok_embeddings.weight",))}
    for layer in range(cfg.n_layers):
        ours, theirs = f"blocks.{layer}", f"layers.{layer}"
        found |= _norm(cfg, f"{ours}.ln1", f"{theirs}.attention_norm")
        found |= _attention(cfg, f"{ours}.attn", f"{theirs}.attention", split_qkv(f"{theirs}.attention"))
        for site in cfg.mixed_sites if cfg.static_mixing else ():
            name = _static_name(layer, site)
            found[f"{ours}.attn.{site}.static_blocks"] = ZERO if static_zero(name) else Source((name,))
        found |= _norm(cfg, f"{ours}.ln2", f"{theirs}.ffn_norm")
        found |= _mlp(cfg, f"{ours}.mlp", f"{theirs}.feed_forward")
    found |= _norm(cfg, "ln_final", "norm")
    if not cfg.tie_embeddings:
        found["unembed.weight"] = Source(("output.weight",))
    return found


def _norm(cfg: DCFormerConfig, ours: str, theirs: str) -> dict[str, Source]:
    found = {f"{ours}.w": Source((f"{theirs}.weight",))}
    if cfg.normalization_type == "LN":
        found[f"{ours}.b"] = Source((f"{theirs}.bias",))
    return found


def _linear(cfg: DCFormerConfig, ours: str, theirs: str) -> dict[str, Source]:
    kinds = ("weight", "bias") if cfg.use_bias else ("weight",)
    return {f"{ours}.{kind}": Source((f"{theirs}.{kind}",)) for kind in kinds}


def _attention(cfg: DCFormerConfig, ours: str, theirs: str, split_qkv: bool) -> dict[str, Source]:
    found = _linear(cfg, f"{ours}.wqkv", f"{theirs}.wqkv") | _linear(cfg, f"{ours}.wo", f"{theirs}.wo")
    if split_qkv:
        for kind in ("weight", "bias") if cfg.use_bias else ("weight",):
            names = tuple(f"{theirs}.{part}.{kind}" for part in ("wq", "wk", "wv"))
            found[f"{ours}.wqkv.{kind}"] = Source(names, lambda *parts: torch.cat(parts), lambda t: t.chunk(3))
    if cfg.use_qk_norm:
        found |= {f"{ours}.{norm}": Source((f"{theirs}.{norm}.scale",)) for norm in ("q_norm", "k_norm")}
    if cfg.compose:
        prefix = f"{theirs}.dyn_w_proj"
        found[f"{ours}.mix_hidden"] = Source(
            (f"{prefix}.dw1",),
            to_ours=lambda dw1_DGCK: dw1_DGCK.permute(2, 1, 3, 0),
            to_file=lambda hidden_CGKD: (hidden_CGKD.permute(3, 1, 0, 2),),
        )
        found[f"{ours}.mix_factors"] = Source(
            (f"{prefix}.qkw",),
            to_ours=lambda qkw_GCKRN: qkw_GCKRN.transpose(0, 1),
            to_file=lambda factors_CGKRN: (factors_CGKRN.transpose(0, 1),),
        )
        found[f"{ours}.mix_gates"] = Source((f"{prefix}.dd",), _gates_to_ours, _gates_to_file(cfg.groups))
    return found


def _gates_to_ours(dd_DGM: Tensor) -> Tensor:
    """[D, G, 4N], for each group the four networks one after the other, to [C, G*N, D]."""
    return dd_DGM.unflatten(2, (4, -1)).permute(2, 1, 3, 0).flatten(1, 2)


def _gates_to_file(groups: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    return lambda gates_CHD: (gates_CHD.unflatten(1, (groups, -1)).permute(3, 1, 0, 2).flatten(2),)


def _mlp(cfg: DCFormerConfig, ours: str, theirs: str) -> dict[str, Source]:
    pairs = {"w_gate": "w1", "w_in": "w3", "w_out": "w2"} if cfg.gated_mlp else {"w_in": "w1", "w_out": "w2"}
    found: dict[str, Source] = {}
    for our_name, their_name in pairs.items():
        found |= _linear(cfg, f"{ours}.{our_name}", f"{theirs}.{their_name}")
    if cfg.mgate_groups is not None:
        found[f"{ours}.w_mgate.weight"] = Source((f"{theirs}.mg.weight",))
    return found


def is_derived(name: str, cfg: DCFormerConfig) -> bool:
    if name == "output.weight" and cfg.tie_embeddings:
        return True
    if not cfg.compose and f".{_DYNAMIC}." in name:
        return True  # the published code makes the mixing networks in plain models too, and leaves them unused
    # every static W is claimed by sources, so a proj.w that is left over is an identity
    match = _DERIVED.fullmatch(name)
    return match is not None and int(match["layer"] or 0) < cfg.n_layers


# -- writing -----------------------------------------------------------------------------------------


def write(model: HookedDCFormer) -> tuple[dict[str, Any], Iterator[tuple[str, Tensor]]]:
    return write_config(model.cfg), _tensors(model)


def write_config(cfg: DCFormerConfig) -> dict[str, Any]:
    pythia = cfg.normalization_type == "LN"
    _refuse_what_cannot_be_held(cfg, pythia)
    config: dict[str, Any] = {
        "model_type": "dcpythia" if pythia else "dcformer", "architectures": ["DCPythia" if pythia else "DCFormer"],
        "n_layer": cfg.n_layers, "dim": cfg.d_model, "n_head": cfg.n_heads, "n_local_heads": cfg.n_heads,
        "head_dim": cfg.d_head, "intermediate_size": cfg.d_mlp, "block_size": cfg.n_ctx, "vocab_size": cfg.d_vocab,
        "norm_eps": cfg.eps, "rope_base": cfg.rotary_base, "use_qk_norm": cfg.use_qk_norm, **_window(cfg, pythia),
        "use_dcmha": cfg.compose, "query_wise": False, "is_training": False, "eos_token_id": cfg.eos_token_id,
        "tie_word_embeddings": cfg.tie_embeddings, "torch_dtype": dtype_name(cfg.dtype),
    }  # fmt: skip
    if pythia:
        extra = {"use_linear_bias": cfg.use_bias, "use_parallel_residual": cfg.parallel_attn_mlp}
        return config | extra | {"rotary_pct": _rotary_share(cfg)}
    gate = {} if cfg.mgate_groups is None else {"mgate_dim": cfg.mgate_groups}
    return config | {"mgate": cfg.mgate_groups is not None} | gate


def _refuse_what_cannot_be_held(cfg: DCFormerConfig, pythia: bool) -> None:
    held: dict[str, tuple[Any, ...]] = {
        "positional_embedding_type": ("rotary",),
        "d_head": (cfg.d_model / cfg.n_heads,),
        "gated_mlp": (not pythia,),
        "act_fn": ("gelu" if pythia else "silu",),
    }
    if not pythia:
        held |= {"use_bias": (False,), "parallel_attn_mlp": (False,), "rotary_dim": (None, cfg.d_head)}
    if cfg.compose:
        held |= {"sites": (SITES,), "sides": (SIDES,)}
    for field, values in held.items():
        given = getattr(cfg, field)
        if given not in values:
            kind = "dcpythia" if pythia else "dcformer"
            raise ModelLoadError(
                f"The published layout ({kind}) cannot hold {field}={given!r}; it needs {values[0]!r}. "
                'Save with layout="own".'
            )


def _window(cfg: DCFormerConfig, pythia: bool) -> dict[str, Any]:
    """window_size and window_type; null twice where no layer is local."""
    local = {keys for keys in cfg.visible_keys or () if keys is not None}
    if not local:
        return {"window_size": None, "window_type": None}
    for kind, pattern in WINDOW_PATTERNS.items():
        if cfg.visible_keys == window_pattern(pattern, max(local), cfg.n_layers):
            return {"window_size": max(local) - pythia, "window_type": None if kind == "LG" else kind}
    raise ModelLoadError(
        f"The published layout cannot hold visible_keys={cfg.visible_keys!r}: it needs one window in the pattern "
        f'{", ".join(WINDOW_PATTERNS)}. Save with layout="own".'
    )


def _rotary_share(cfg: DCFormerConfig) -> float:
    share = cfg.rotary_width / cfg.d_head
    # the reader rounds d_head * share down: no rounding of the division may lose a dimension
    return share if int(cfg.d_head * share) == cfg.rotary_width else math.nextafter(share, 2.0)


def _tensors(model: HookedDCFormer) -> Iterator[tuple[str, Tensor]]:
    cfg, parameters = model.cfg, dict(model.named_parameters())
    for ours, source in _sources(cfg, split_qkv=lambda prefix: False, static_zero=lambda name: False).items():
        if ours.endswith("static_blocks"):
            _refuse_identity(ours, parameters[ours])
        yield from zip(source.names, source.to_file(parameters[ours].detach()), strict=True)
    if cfg.tie_embeddings:
        # the published code does not tie: it reads both (clones, as tensors of a file may not share memory)
        yield "output.weight", model.embed.W_E.detach().clone()
    if cfg.compose and not cfg.static_mixing:
        identity = torch.eye(cfg.heads_per_group, dtype=cfg.dtype, device="cpu").expand(cfg.groups, -1, -1)
        for layer in range(cfg.n_layers):
            for site in SITES:
                yield _static_name(layer, site), identity.clone()


def _refuse_identity(name: str, blocks: Tensor) -> None:
    if bool((blocks == torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)).all()):
        raise ModelLoadError(
            f"{name} is exactly the identity, which the published layout reads as no static branch. "
            'Save with layout="own".'
        )


LAYOUT = Layout("published", ("dcformer", "dcpythia"), read_config, sources, is_derived, write)
