"""What a model is: every architectural choice, checked once, with the paper's sizes beside it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformer_lens.config import TransformerLensConfig

from model.plain_words import quoted

SITES = ("pre", "post")
SIDES = ("query", "key")
LARGEST = 2**31 - 1
"""Of any size: a position, a token id or a width beyond it fits no tensor's index."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass
class DCFormerConfig(TransformerLensConfig):
    """A transformer whose attention heads may be mixed, token pair by token pair, before and after the softmax.

    Names follow TransformerLens where it has one. Nothing is silently corrected: two values that
    contradict each other raise a ValueError that names both.

    Shape:
        d_model, d_head, n_heads, n_layers, n_ctx, d_vocab, d_mlp: as in TransformerLens.

    Architecture:
        normalization_type: "RMS" (weight only) or "LN" (weight and bias); eps belongs to it.
        act_fn: "silu", "gelu" (exact, erf) or "gelu_new" (tanh approximation).
        gated_mlp: act(x W_gate) * (x W_in) in place of act(x W_in).
        mgate_groups: weight the MLP's activations, cut into this many equal groups, by softmax(x W_mgate).
        positional_embedding_type: "rotary" or "standard" (a learned vector for each position).
        rotary_dim: leading dimensions of a head that rotate, even; None = all of them.
        rotary_base: base of the rotary wavelengths.
        parallel_attn_mlp: the MLP reads the block's input, not the attention's output.
        use_bias: biases on the attention and MLP projections.
        use_qk_norm: RMS norm (learned scale, eps 1e-6) on queries and keys, before rotary.
        visible_keys: for each layer how many keys a query sees, itself included; None in the
            tuple means all earlier keys, None for the whole means no layer is local.
        tie_embeddings: the unembedding is the transposed embedding.

    Head mixing (see model/mixing.py for the mathematics):
        compose: False gives a plain transformer; the other mixing fields then mean nothing.
        sites: where heads are mixed: "pre" (scores), "post" (pattern), or both.
        sides: which token makes the dynamic part: "query", "key", both, or () for none.
        rank: rank R of the low-rank branches.
        groups: heads mix only inside one of this many equal groups; M is block-diagonal.
        static_mixing: base is I + W with a learned W. With sides=() this is Talking-Heads attention.

    Text:
        eos_token_id: where generation stops; None = it runs to the length asked for.
    """

    # a switch that TransformerLens's tools look for; this model has no separate hook on the MLP's input
    use_hook_mlp_in: ClassVar[bool] = False

    n_heads: int = -1
    act_fn: str = "silu"
    normalization_type: str | None = "RMS"
    eps: float = 1e-6
    gated_mlp: bool = True
    default_prepend_bos: bool = False
    positional_embedding_type: str = "rotary"
    mgate_groups: int | None = None
    rotary_dim: int | None = None
    rotary_base: float = 10000.0
    parallel_attn_mlp: bool = False
    use_bias: bool = False
    use_qk_norm: bool = True
    visible_keys: Sequence[int | None] | None = None
    tie_embeddings: bool = False
    compose: bool = True
    sites: Sequence[str] = SITES
    sides: Sequence[str] = SIDES
    rank: int = 2
    groups: int = 1
    static_mixing: bool = False
    eos_token_id: int | None = None
    model_name: str = "dcformer"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sites, self.sides = tuple(self.sites), tuple(self.sides)
        if self.visible_keys is not None:
            self.visible_keys = tuple(self.visible_keys)
        if isinstance(self.dtype, str):
            self.dtype = parse_dtype(self.dtype)
        self.device = str(self.device)
        self.uses_rms_norm = self.final_rms = self.normalization_type == "RMS"
        self._check()

    # -- what the fields amount to ---------------------------------------------------------------

    @property
    def mixed_sites(self) -> tuple[str, ...]:
        """The sites where this model mixes heads: () for a plain model."""
        return tuple(self.sites) if self.compose else ()

    @property
    def dynamic_sides(self) -> tuple[str, ...]:
        """The sides that make input-dependent mixing: () for plain and static models."""
        return tuple(self.sides) if self.compose else ()

    @property
    def heads_per_group(self) -> int:
        return self.n_heads // self.groups

    @property
    def mixing_hidden(self) -> int:
        """Width K = 2 R H / G of each mixing network's hidden layer."""
        return 2 * self.rank * self.heads_per_group

    @property
    def rotary_width(self) -> int:
        """How many leading dimensions of a head rotate: 0 with learned positions."""
        if self.positional_embedding_type != "rotary":
            return 0
        return self.d_head if self.rotary_dim is None else self.rotary_dim

    def keys_visible_in(self, layer: int) -> int | None:
        """How many keys a query of this layer sees, itself included; None = all earlier ones."""
        return None if self.visible_keys is None else self.visible_keys[layer]

    @property
    def keys_visible(self) -> list[int | None]:
        """keys_visible_in of every layer."""
        return [self.keys_visible_in(layer) for layer in range(self.n_layers)]

    # -- building and storing --------------------------------------------------------------------

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> DCFormerConfig:
        """A size of the paper, e.g. preset("dcformer-405m", n_layers=2), preset("dcpythia-2.8b", compose=False).

        Args:
            name: one of PRESETS.
            overrides: any field. Local and global layers alternate over the given n_layers unless
                visible_keys is given too.
        Raises:
            ValueError: an unknown preset or field, or values that contradict each other.
        """
        if name not in PRESETS:
            raise ValueError(f"Unknown preset {name!r}. Choose one of {', '.join(PRESETS)}.")
        _refuse_unknown(cls, overrides)
        architecture, sizes = PRESETS[name]
        fields = ARCHITECTURES[architecture] | sizes | overrides
        heads, width = fields["n_heads"], fields["d_model"]
        fields.setdefault("model_name", name)
        if "d_head" not in fields:
            if width % heads:
                raise ValueError(f"d_model={width} is not a multiple of n_heads={heads}; give d_head too.")
            fields["d_head"] = width // heads
        if "rotary_dim" not in fields and architecture == "neox":
            fields["rotary_dim"] = fields["d_head"] // 4
        if "visible_keys" not in fields:
            # DCPythia's published prefill lets a query see window_size keys beside itself
            fields["visible_keys"] = window_pattern("LG", 257 if architecture == "neox" else 256, fields["n_layers"])
        return cls(**fields)

    @classmethod
    def from_architecture(cls, architecture: str, **fields: Any) -> DCFormerConfig:
        """A model of any size in one of the three architectures of the paper.

        Args:
            architecture: "original" (LayerNorm, GELU MLP, learned positions), "llama" (DCFormer:
                RMSNorm, gated SiLU MLP, rotary) or "neox" (DCPythia: LayerNorm, GELU MLP, biases,
                parallel residual, rotary on a quarter of each head).
            fields: the sizes, and any other field.
        """
        if architecture not in ARCHITECTURES:
            raise ValueError(f"Unknown architecture {architecture!r}. Choose one of {', '.join(ARCHITECTURES)}.")
        _refuse_unknown(cls, fields)
        merged = ARCHITECTURES[architecture] | fields
        if architecture == "neox" and "d_head" in merged:
            merged.setdefault("rotary_dim", max(2, merged["d_head"] // 8 * 2))
        return cls(**merged)

    def replace(self, **changes: Any) -> DCFormerConfig:
        """This configuration with some fields changed, checked again."""
        _refuse_unknown(type(self), changes)
        fields = {name: getattr(self, name) for name in _stored_fields(type(self))}
        return type(self)(**(fields | {"device": self.device} | changes))

    def to_json_dict(self) -> dict[str, Any]:
        """Every field that describes the model (not where it runs), as JSON can hold it."""
        stored = {name: getattr(self, name) for name in _stored_fields(type(self))}
        stored["dtype"] = dtype_name(self.dtype)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in stored.items()}

    @classmethod
    def from_json_dict(cls, stored: dict[str, Any], **changes: Any) -> DCFormerConfig:
        """Read what to_json_dict wrote. Unknown keys raise: nothing is dropped in silence."""
        _refuse_unknown(cls, stored)
        return cls(**(stored | changes))

    # -- checks ----------------------------------------------------------------------------------

    def _check(self) -> None:
        for name in ("d_model", "d_head", "n_heads", "n_layers", "n_ctx", "d_mlp", "d_vocab", "rank", "groups"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
                raise ValueError(f"{name} must be a whole number from 1 to {LARGEST}, got {quoted(value)}.")
        _one_of("normalization_type", self.normalization_type, ("RMS", "LN"))
        _one_of("act_fn", self.act_fn, ("silu", "gelu", "gelu_new"))
        _one_of("positional_embedding_type", self.positional_embedding_type, ("rotary", "standard"))
        self._check_positions()
        self._check_mixing()
        if self.mgate_groups is not None:
            if not self.gated_mlp:
                raise ValueError(f"mgate_groups={self.mgate_groups} needs a gated MLP, but gated_mlp=False.")
            if self.mgate_groups < 1 or self.d_mlp % self.mgate_groups:  # type: ignore[operator]
                raise ValueError(
                    f"d_mlp={self.d_mlp} cannot be cut into mgate_groups={self.mgate_groups} equal groups."
                )
        if self.eos_token_id is not None and not 0 <= self.eos_token_id < self.d_vocab:
            raise ValueError(f"eos_token_id={self.eos_token_id} is outside the vocabulary d_vocab={self.d_vocab}.")

    def _check_positions(self) -> None:
        if self.positional_embedding_type != "rotary" and self.rotary_dim is not None:
            raise ValueError(
                f"rotary_dim={self.rotary_dim} contradicts positional_embedding_type="
                f"{self.positional_embedding_type!r}."
            )
        width = self.rotary_width
        if width % 2 or width > self.d_head or (self.rotary_dim is not None and self.rotary_dim < 2):
            raise ValueError(f"rotary_dim={width} must be even, at least 2 and at most d_head={self.d_head}.")
        if self.visible_keys is None:
            return
        if len(self.visible_keys) != self.n_layers:
            raise ValueError(f"visible_keys names {len(self.visible_keys)} layers but n_layers={self.n_layers}.")
        for layer, keys in enumerate(self.visible_keys):
            if keys is not None and (not isinstance(keys, int) or keys < 1):
                raise ValueError(f"visible_keys[{layer}] must be None or at least 1 (the query itself), got {keys!r}.")
            if keys is not None and keys > LARGEST:
                raise ValueError(f"visible_keys[{layer}] must be at most {LARGEST}, got {keys}. None is no window.")

    def _check_mixing(self) -> None:
        for name, given, allowed in (("sites", self.sites, SITES), ("sides", self.sides, SIDES)):
            if any(value not in allowed for value in given) or len(set(given)) != len(given):
                raise ValueError(f"{name}={tuple(given)!r} must be drawn from {allowed} without repeats.")
        if not self.compose:
            if self.static_mixing:
                raise ValueError("static_mixing=True contradicts compose=False: a plain model mixes no heads.")
            return
        if not self.sites:
            raise ValueError("compose=True contradicts sites=(): name a site, or set compose=False.")
        if not self.sides and not self.static_mixing:
            raise ValueError("compose=True contradicts sides=() with static_mixing=False: nothing would mix heads.")
        if self.n_heads % self.groups:
            raise ValueError(f"n_heads={self.n_heads} cannot be cut into groups={self.groups} equal groups.")


def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A torch dtype from its name: "float32", "bfloat16", "float16", "float64", or fp32 / bf16 / fp16 / fp64."""
    if isinstance(dtype, torch.dtype):
        return dtype
    short = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}
    name = short.get(dtype, dtype.removeprefix("torch."))
    if name not in DTYPES:
        raise ValueError(f"Unknown dtype {dtype!r}. Choose one of {', '.join(DTYPES)}.")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def window_pattern(pattern: str, keys: int | None, n_layers: int) -> tuple[int | None, ...] | None:
    """Visible keys of each layer when a pattern such as "LG" or "LGLL" (L local, G global) repeats.

    Args:
        keys: how many keys a local layer sees, the query itself included; None makes every layer global.
    """
    if keys is None:
        return None
    if not pattern or set(pattern) - {"L", "G"}:
        raise ValueError(f"A window pattern is made of L (local) and G (global), got {pattern!r}.")
    return tuple(keys if pattern[layer % len(pattern)] == "L" else None for layer in range(n_layers))


def _one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is not known. Choose one of {', '.join(map(repr, allowed))}.")


def _refuse_unknown(cls: type, given: dict[str, Any]) -> None:
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"Unknown configuration field {', '.join(unknown)}. Known fields: {', '.join(sorted(known))}.")


def _stored_fields(cls: type) -> list[str]:
    # run-time switches and fields of TransformerLens that no model of ours has
    skipped = {"device", "use_attn_result", "use_split_qkv_input", "n_key_value_heads", "attn_only", "num_experts"}
    skipped |= {"experts_per_token", "layer_norm_folding", "uses_rms_norm", "final_rms"}
    return [f.name for f in dataclasses.fields(cls) if f.name not in skipped]


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "original": {
        "normalization_type": "LN", "eps": 1e-5, "act_fn": "gelu", "gated_mlp": False, "use_bias": True,
        "positional_embedding_type": "standard", "use_qk_norm": False, "parallel_attn_mlp": False,
    },
    "llama": {
        "normalization_type": "RMS", "eps": 1e-6, "act_fn": "silu", "gated_mlp": True, "use_bias": False,
        "positional_embedding_type": "rotary", "use_qk_norm": True, "parallel_attn_mlp": False,
    },
    "neox": {
        "normalization_type": "LN", "eps": 1e-5, "act_fn": "gelu", "gated_mlp": False, "use_bias": True,
        "positional_embedding_type": "rotary", "use_qk_norm": True, "parallel_attn_mlp": True,
    },
}  # fmt: skip


def _size(layers: int, width: int, heads: int, mlp: int) -> dict[str, int]:
    return {"n_layers": layers, "d_model": width, "n_heads": heads, "d_mlp": mlp, "n_ctx": 2048, "d_vocab": 50257}


PRESETS: dict[str, tuple[str, dict[str, int]]] = {
    "dcformer-405m": ("llama", _size(24, 1024, 16, 2816)),
    "dcformer-834m": ("llama", _size(24, 1536, 24, 4096)),
    "dcformer-1.4b": ("llama", _size(24, 2048, 32, 5632)),
    "dcformer-2.8b": ("llama", _size(32, 2560, 32, 6912)),
    "dcpythia-2.8b": ("neox", _size(32, 2560, 32, 10240)),
    "dcpythia-6.9b": ("neox", _size(32, 4096, 32, 16384)),
}
"""The sizes of arXiv 2405.08553, all with vocabulary 50257, context 2048 and windows LG 256."""
