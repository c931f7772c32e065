"""Running prompts and keeping what a Capture is made of: with a tap, in the hooked model or the engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.capture import Capture, LayerCapture
from model.config import SITES
from model.engine import Engine
from model.free_memory import guard
from model.functional import norm_scale
from model.generation import Sampler, StopTexts, continuation
from model.key_cache import KeyCache
from model.mixing import Mixing
from model.site_mixing import one_index
from model.taps import LayerActivations
from model.transformer import HookedDCFormer


class Recorder:
    """A tap that keeps layers' activations on the CPU, step after step: with model.tapped(recorder): ...

    Args:
        layers: which layers to keep.
    """

    def __init__(self, layers: Sequence[int]):
        self.steps: dict[int, list[LayerActivations]] = {layer: [] for layer in layers}

    def __call__(self, at: LayerActivations) -> None:
        if at.layer in self.steps:
            mixing = {site: factors.map(lambda factor: factor.detach().cpu()) for site, factors in at.mixing.items()}
            q, k, v = (_kept(x) for x in (at.q, at.k, at.v))
            self.steps[at.layer].append(LayerActivations(at.layer, q, k, v, mixing))

    def layer(self, layer: int) -> LayerActivations:
        """All that was seen of a layer, joined along the position axis."""
        steps = self.steps[layer]
        q, k, v = (torch.cat([getattr(step, name) for step in steps], dim=1) for name in "qkv")
        return LayerActivations(
            layer, q, k, v, {site: _joined([step.mixing[site] for step in steps]) for site in SITES}
        )


def _kept(x: Tensor) -> Tensor:
    """x on the CPU, copied where it is a view: the whole of one step's projections would stay alive behind it."""
    x = x.detach()
    is_view = x.untyped_storage().nbytes() > x.nbytes
    return x.to("cpu", copy=is_view)


@torch.no_grad()
def capture(
    source: HookedDCFormer | Engine,
    input: str | Sequence[str] | Tensor,
    *,
    layers: Sequence[int] | None = None,
    logits: bool = True,
    prepend_bos: bool | None = None,
    max_new_tokens: int = 0,
    **sampling: Any,
) -> Any:
    """Run prompts and keep what every map and mixing matrix can be rebuilt from; no map is built.

    Args:
        source: the hooked model (edits by hooks on its factors show in the capture), or an engine (the faster way);
            edits by taps show in both.
        input: one prompt (text, or ids [pos] or [1, pos]) gives a Capture; several (texts, or ids
            [batch, pos]) give a list.
        layers: which layers to keep; None = all.
        logits: keep the logits, [pos, d_vocab] for each prompt.
        max_new_tokens: engine only: go on generating, and keep what each new token did. The last token drawn is
            not part of the capture: the model has not run on it.
        sampling: temperature, top_k, top_p, seed, as for generate.
    Raises:
        ValueError: hooks stand on whole maps, whose edits a rebuilt map would not show; and bad input as
            in HookedDCFormer.forward.
        WillNotFit: too little memory; fewer layers, or logits=False, take less.
    """
    model = source.model if isinstance(source, Engine) else source
    every = range(model.cfg.n_layers)
    kept = sorted({one_index(layer, len(every), "layer") for layer in (every if layers is None else layers)})
    tokens, mask = model.to_tokens_and_mask(input, prepend_bos)
    if not isinstance(source, Engine) and (max_new_tokens or sampling):
        raise ValueError("Only an engine captures generation. Give Engine(model) in place of the model.")
    model.check_tokens(tokens, mask, 0)
    length = tokens.shape[1] + max_new_tokens
    with guard(
        model.cfg, "capture", batch=len(tokens), tokens=length, device=tokens.device,
        room=length if max_new_tokens else 0, kept_layers=len(kept), kept_logits=logits,
    ):  # fmt: skip
        if isinstance(source, Engine):
            tokens, resid, recorded = _run_engine(source, tokens, mask, kept, max_new_tokens, sampling)
        else:
            tokens, resid, recorded = _run_hooked(model, tokens, mask, kept)
        starts = [0] * len(tokens) if mask is None else (~mask).sum(1).tolist()
        runs = [
            _one_prompt(model, row, slice(start, None), tokens, resid, recorded, logits)
            for row, start in enumerate(starts)
        ]
    single = isinstance(input, str) or (isinstance(input, Tensor) and len(runs) == 1)
    return runs[0] if single else runs


Recorded = tuple[Tensor, Tensor, dict[int, LayerActivations]]
"""(tokens that were run [batch, pos], last residual stream [batch, pos, d_model], activations by layer)."""


def _run_engine(
    engine: Engine,
    tokens: Tensor,
    mask: Tensor | None,
    layers: list[int],
    max_new_tokens: int,
    sampling: dict[str, Any],
) -> Recorded:
    recorder, residuals = Recorder(layers), []

    def step(new: Tensor, step_mask: Tensor | None, caches: list[KeyCache] | None) -> Tensor:
        residuals.append(engine.residual(new, step_mask, caches))
        return engine.unembed(residuals[-1][:, -1])

    with engine.tapped(recorder):
        if max_new_tokens:
            options = {"temperature": 0.0, "top_k": None, "top_p": None, "seed": None} | sampling
            sampler, stops = Sampler(device=str(tokens.device), **options), StopTexts(engine.model, ())
            drawn = list(continuation(engine.model, tokens, mask, max_new_tokens, sampler, stops, True, step))
            tokens = torch.cat([tokens, *(token[:, None] for token in drawn[:-1])], dim=1)
        else:
            step(tokens, mask, None)
    return tokens, torch.cat(residuals, dim=1), {layer: recorder.layer(layer) for layer in layers}


def _run_hooked(model: HookedDCFormer, tokens: Tensor, mask: Tensor | None, layers: list[int]) -> Recorded:
    watched = [layer for layer in layers if model.blocks[layer].attn.maps_are_watched()]
    if watched:
        raise ValueError(
            f"Hooks stand on the attention maps of layers {watched}; a capture rebuilds maps from factors and would "
            "not show their edits. Remove them, or read the maps with run_with_cache."
        )
    recorder, last = Recorder(layers), {}

    def keep(activation: Tensor, hook: Any) -> None:
        last["resid"] = activation.detach()

    hooks: list[Any] = [(f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", keep)]
    with model.tapped(recorder):
        model.run_with_hooks(tokens, return_type=None, attention_mask=mask, fwd_hooks=hooks)
    return tokens, last["resid"], {layer: recorder.layer(layer) for layer in layers}


def _one_prompt(
    model: HookedDCFormer, row: int, real: slice, tokens: Tensor, resid: Tensor,
    recorded: dict[int, LayerActivations], logits: bool,
) -> Capture:  # fmt: skip
    """Cut one prompt out of a batch, without its padding. Copies, so that the batch can be freed."""

    def own(x: Tensor) -> Tensor:
        return x[row, real].to("cpu", copy=True)

    kept = {}
    for layer, at in recorded.items():
        pre, post = (_own_mixing(at.mixing[site], row, real) for site in SITES)
        W_O = model.blocks[layer].attn.W_O.detach()
        kept[layer] = LayerCapture(q=own(at.q), k=own(at.k), v=own(at.v), pre=pre, post=post, W_O=W_O)
    ids, last = own(tokens), resid[row : row + 1, real]
    _, scale = norm_scale(last, model.cfg.eps, model.ln_final.centred)
    return Capture(
        cfg=model.cfg.replace(), tokens=ids, str_tokens=model.to_str_tokens(ids),
        logits=model.unembed(model.ln_final(last))[0].float().cpu() if logits else None,
        final_scale=scale[0].float().cpu(), layers=kept,
    )  # fmt: skip


def _own_mixing(mixing: Mixing, row: int, real: slice) -> Mixing:
    cut = mixing.batch(slice(row, row + 1)).cut(real, real)
    return cut.map(lambda factor: factor.detach().to("cpu", copy=True))


def _joined(steps: list[Mixing]) -> Mixing:
    """The mixing of several steps as one; what one step lacks, all lack."""
    if len(steps) == 1:
        return steps[0]
    factors = {name: torch.cat([getattr(step, name) for step in steps], dim=1) for name in steps[0].factors()}
    return steps[0].with_factors(factors)
