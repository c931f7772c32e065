"""What TransformerLens's tools ask of a model, beyond hooks: caching, weights by their names, residual directions."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities import Slice

# how the position axis of a batched activation is found when its hook point does not say
_POSITION_AXIS = 1

EDGE_REFUSAL = (
    "Direct-path and edge-level attribution patching are not faithful on a DCFormer: its mixing networks are a further "
    "reader of each layer's normalised input, which those tools know nothing of. Use node-level patching instead."
)


class LensTools:
    """The TransformerLens side of HookedDCFormer (TransformerLens 4.3's TransformerLensModelWithWeights)."""

    cfg: Any
    hook_dict: dict[str, HookPoint]

    # -- caching ---------------------------------------------------------------------------------

    def run_with_cache(
        self, *args: Any, return_cache_object: bool = True, remove_batch_dim: bool = False, **kwargs: Any
    ) -> tuple[Any, ActivationCache | dict[str, Tensor]]:
        """Run the model and keep its activations.

        Args:
            names_filter: which hooks to keep (name, names or predicate). All of them by default: that
                builds every map and each head's result, [batch, pos, head, d_model], so choose at long contexts.
            pos_slice: which positions to keep, on the position axis of every activation, factors included.
            incl_bwd, device, reset_hooks_end, clear_contexts: as in TransformerLens.
        Returns:
            (what forward returns, ActivationCache), or a plain dict with return_cache_object=False.
        """
        out, cache = super().run_with_cache(*args, remove_batch_dim=remove_batch_dim, **kwargs)  # type: ignore[misc]
        if not return_cache_object:
            return out, cache
        return out, ActivationCache(cache, self, has_batch_dim=not remove_batch_dim)

    def get_caching_hooks(
        self,
        names_filter: Callable[[str], bool] | Sequence[str] | str | None = None,
        incl_bwd: bool = False,
        device: Any = None,
        remove_batch_dim: bool = False,
        cache: dict[str, Tensor] | None = None,
        pos_slice: Any = None,
    ) -> tuple[dict[str, Tensor], list, list]:
        """As in TransformerLens, but each hook's own position axis is cut (factors keep theirs at axis 1)."""
        cache = {} if cache is None else cache
        positions = Slice.unwrap(pos_slice)

        def save(activation: Tensor, hook: HookPoint, suffix: str) -> None:
            kept = activation.detach()
            axis = _POSITION_AXIS if hook.pos_dim is None else hook.pos_dim % kept.ndim
            kept = positions.apply(kept, dim=axis)
            if remove_batch_dim and kept.shape[0] == 1:
                kept = kept[0]
            cache[f"{hook.name}{suffix}"] = kept.to(device)

        chosen = [name for name in self.hook_dict if _matches(name, names_filter)]
        self.is_caching = True
        forward = [(name, partial(save, suffix="")) for name in chosen]
        backward = [(name, partial(save, suffix="_grad")) for name in chosen] if incl_bwd else []
        return cache, forward, backward

    def _enable_hook_with_name(self, name: str, hook: Callable, dir: Any) -> None:
        if name not in self.hook_dict:
            near = difflib.get_close_matches(name, self.hook_dict, n=3, cutoff=0.3)
            raise ValueError(
                f"This model has no hook {name!r}. Near it: {', '.join(near)}. All are in model.hook_dict."
            )
        super()._enable_hook_with_name(name, hook, dir)  # type: ignore[misc]

    # -- weights and directions --------------------------------------------------------------------

    W_E = property(lambda self: self.embed.W_E, doc="[d_vocab, d_model]")
    W_U = property(lambda self: self.unembed.W_U, doc="[d_model, d_vocab], without the final norm's weight")
    b_U = property(lambda self: self.unembed.b_U, doc="[d_vocab], zeros")

    def tl_parameters(self) -> dict[str, Tensor]:
        """Weights under TransformerLens's names and in its shapes; views of the model's own."""
        named = {"embed.W_E": self.W_E, "unembed.W_U": self.W_U, "unembed.b_U": self.b_U}
        for layer, block in enumerate(self.blocks):  # type: ignore[attr-defined]
            parts = {
                "attn": ["W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"],
                "mlp": ["W_in", "W_out", "b_in", "b_out"],
            }
            if self.cfg.gated_mlp:
                parts["mlp"].append("W_gate")
            norm = ["w", "b"] if self.cfg.normalization_type == "LN" else ["w"]
            for part, names in (parts | {"ln1": norm, "ln2": norm}).items():
                named |= {f"blocks.{layer}.{part}.{name}": getattr(getattr(block, part), name) for name in names}
        return named

    def blocks_with(self, submodule: str) -> list[tuple[int, Any]]:
        """The (layer, block) pairs that have a part of this name, e.g. "attn"."""
        return [(layer, block) for layer, block in enumerate(self.blocks) if hasattr(block, submodule)]  # type: ignore[attr-defined]

    def tokens_to_residual_directions(self, tokens: Any) -> Tensor:
        """Directions in the residual stream whose dot product with x / scale is a token's logit (up to constants).

        The final norm's weight is not folded into W_U, so it is multiplied in here; the scale stays out:
        attributions divide by it, frozen at its actual value.
        Returns:
            [..., d_model] for ids [...]; [d_model] for one token or string.
        """
        if isinstance(tokens, str):
            tokens = self.to_single_token(tokens)  # type: ignore[attr-defined]
        ids = torch.as_tensor(tokens, device=self.W_U.device)
        return self.W_U.T[ids] * self.ln_final.w  # type: ignore[attr-defined]

    def accumulated_bias(self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True) -> Tensor:
        """Output biases of all layers before `layer`, plus this one's attention with mlp_input, summed: [d_model]."""
        blocks = self.blocks  # type: ignore[attr-defined]
        total = torch.zeros_like(blocks[0].attn.b_O)
        for block in blocks[:layer]:
            total = total + block.attn.b_O
            if include_mlp_biases:
                total = total + block.mlp.b_out
        return total + blocks[layer].attn.b_O if mlp_input else total

    # -- switches that TransformerLens's tools flip --------------------------------------------------

    def set_use_attn_result(self, use: bool) -> None:
        """Always compute each head's result (hook_result), not only while it has hooks."""
        self.cfg.use_attn_result = use

    def set_use_split_qkv_input(self, use: bool) -> None:
        if use:
            raise ValueError(EDGE_REFUSAL)

    def set_use_hook_mlp_in(self, use: bool) -> None:
        if use:
            raise ValueError(EDGE_REFUSAL)


def _matches(name: str, names_filter: Callable[[str], bool] | Sequence[str] | str | None) -> bool:
    if names_filter is None:
        return True
    if callable(names_filter):
        return names_filter(name)
    return name == names_filter if isinstance(names_filter, str) else name in names_filter
