"""Engine: the fast path. The weights of a HookedDCFormer, the same logits, no hooks.

Axes: B batch, T query, S key, N head, K d_head, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.addresses import weight_addresses
from model.backends import composed_attention, default_backend, kernels_take_steps
from model.backends.triton_backend import kernels_or_else
from model.free_memory import guard
from model.functional import QK_NORM_EPS, activate, rotary_tables, rotate
from model.fused_step import fused_inputs, holds
from model.generation import generate, stream
from model.graphs import MOST_TOKENS, Graphs
from model.key_cache import KeyCache, Place, Seen, place_among
from model.mixing import Mixing
from model.taps import Tap
from model.transformer import MLP, HookedDCFormer, Norm


@dataclass(frozen=True)
class Position:
    """Where a step stands: rotary tables (None with learned positions), padding mask, cached keys (None: no cache).

    places: by number of slots, where a step's one token goes, if that is not to be fixed in a graph.
    """

    rotary: tuple[Tensor, Tensor] | None
    mask: Tensor | None
    caches: list[KeyCache] | None
    places: dict[int, Place] | None = None

    def to(self, device: torch.device) -> Position:
        """The same on a block's device; nothing is copied where it is there already."""
        rotary = None if self.rotary is None else (self.rotary[0].to(device), self.rotary[1].to(device))
        return Position(rotary, None if self.mask is None else self.mask.to(device), self.caches, self.places)


class Engine:
    """A model without hooks, for long prompts, training-free evaluation and generation.

    It reads the very tensors of the hooked model (no copy), so a change of weights or device shows in both. Hooks
    would be ignored here: a model that has some is refused. Factors can be read and changed through taps.

    Args:
        model: the hooked model whose weights are used.
        backend: of composed attention, see model.backends; None = the process's default.
        graphs: on a GPU, record short runs and decoding steps as CUDA graphs when their shape comes again. Runs with
            taps are never recorded.
    """

    def __init__(self, model: HookedDCFormer, backend: str | None = None, graphs: bool = True):
        self.model, self.cfg, self.backend = model, model.cfg, backend
        self.graphs = Graphs() if graphs else None
        self._weights: tuple[int, ...] = ()
        self._recordable = False

    @torch.no_grad()
    def __call__(
        self,
        input: str | Sequence[str] | Tensor,
        *,
        last: bool = False,
        attention_mask: Tensor | None = None,
        prepend_bos: bool | None = None,
        caches: list[KeyCache] | None = None,
    ) -> Tensor:
        """Logits of all positions, [batch, pos, d_vocab], or with last=True of the last only, [batch, d_vocab].

        Args and errors: as for HookedDCFormer.forward.
        Raises:
            WillNotFit: too little memory for this run; a smaller one works afterwards.
        """
        tokens, mask = self.model.to_tokens_and_mask(input, prepend_bos, attention_mask)
        self._check(tokens, mask, caches)
        with self._guarded("last" if last else "logits", tokens, caches):
            resid = self._run(tokens, mask, caches)
            return self.unembed(resid[:, -1] if last else resid)

    @torch.no_grad()
    def residual(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        caches: list[KeyCache] | None = None,
        *,
        start_at: tuple[int, Tensor] | None = None,
        stop_at_layer: int | None = None,
    ) -> Tensor:
        """The residual stream after the last block, [batch, pos, d_model]; arguments and errors as for __call__.

        Args:
            start_at: (layer, the residual stream entering it): earlier layers are not run.
            stop_at_layer: return the residual stream entering this layer; None = after the last.
        """
        self._check(tokens, mask, caches)
        with self._guarded("residual", tokens, caches):
            return self._run_blocks(tokens, mask, caches, start_at, stop_at_layer)

    def _check(self, tokens: Tensor, mask: Tensor | None, caches: list[KeyCache] | None) -> None:
        self.model.check_tokens(tokens, mask, caches[0].length if caches else 0)
        self._refuse_hooks()

    def _guarded(self, mode: str, tokens: Tensor, caches: list[KeyCache] | None) -> AbstractContextManager[None]:
        past = caches[0].length if caches else 0
        room = caches[0].capacity if caches and not past else 0  # the first step makes the room of all
        batch, new = tokens.shape
        return guard(self.cfg, mode, batch=batch, tokens=new, past=past, room=room, device=tokens.device)

    def _run(self, tokens: Tensor, mask: Tensor | None, caches: list[KeyCache] | None) -> Tensor:
        """The residual stream after the last block; from a graph where there may be one."""
        if self.model.taps.count or not self._on_one_gpu():
            return self._run_blocks(tokens, mask, caches)
        state = mask is None, self.backend, default_backend(), self._weights
        if caches is not None and tokens.shape[1] == 1 and 0 < caches[0].length < caches[0].capacity:
            return self._run_step(tokens, mask, caches, state)
        if caches is not None or self.graphs is None or tokens.numel() > MOST_TOKENS:
            return self._run_blocks(tokens, mask, caches)
        return self.graphs((*tokens.shape, *state), self._run_blocks, (tokens, mask))

    def _on_one_gpu(self) -> bool:
        """Can runs of this model be recorded? Asked of the model again only when its weights have moved."""
        weights = weight_addresses(self.model)
        if weights != self._weights:
            self._weights, self._recordable = weights, recordable(self.model)
        return self._recordable

    def _run_step(self, tokens: Tensor, mask: Tensor | None, caches: list[KeyCache], state: Hashable) -> Tensor:
        """One token after cached ones. Recorded or not, the same kernels give the same numbers to the bit."""
        past, whole = caches[0].length, None
        if mask is not None:
            whole = F.pad(mask, (0, caches[0].capacity - past - 1))
        inputs = tokens, whole, self.model.positions(tokens, mask, past), tokens.new_full((1,), past)
        run = partial(self._step_blocks, caches)
        if self.graphs is None:
            resid = run(*inputs)
        else:
            caches[0].graphs = caches[0].graphs or Graphs("Decoding steps", at_once=True)
            resid = caches[0].graphs(state, run, inputs)
        for cache in caches:
            cache.length = past + 1
        return resid

    def _step_blocks(
        self, caches: list[KeyCache], tokens: Tensor, mask: Tensor | None, positions: Tensor, at: Tensor
    ) -> Tensor:
        """A step in which nothing but values of tensors depends on how many tokens came before."""
        resid, rotary = self._embedded(tokens, positions)
        batch = len(tokens)
        places = {slots: place_among(slots, at, batch, mask) for slots in {cache.slots for cache in caches}}
        for layer in range(self.cfg.n_layers):
            resid = self._block(layer, resid, Position(rotary, mask, caches, places))
        return resid

    def _run_blocks(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        caches: list[KeyCache] | None = None,
        start_at: tuple[int, Tensor] | None = None,
        stop_at_layer: int | None = None,
    ) -> Tensor:
        past = caches[0].length if caches else 0
        resid, rotary = self._embedded(tokens, self.model.positions(tokens, mask, past))
        at = Position(rotary, mask, caches)
        first = 0
        if start_at is not None:
            first, resid = start_at
        for layer, block in list(enumerate(self.model.blocks))[first:stop_at_layer]:
            device = block.ln1.w.device  # a model larger than one GPU has its blocks on several
            resid = self._block(layer, resid.to(device), at.to(device))
        return resid

    def _embedded(self, tokens: Tensor, positions: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The residual stream entering the first block, and the rotary tables of these positions."""
        resid = F.embedding(tokens, self.model.embed.W_E)
        if self.cfg.positional_embedding_type == "standard":
            return resid + F.embedding(positions, self.model.pos_embed.W_pos), None
        return resid, rotary_tables(positions, self.cfg.rotary_width, self.cfg.rotary_base, self.cfg.dtype)

    @torch.no_grad()
    def unembed(self, resid: Tensor) -> Tensor:
        """Logits of a residual stream: final norm and unembedding. They come back on the embedding's device."""
        last, unembedding = self.model.ln_final, self.model.unembed.weight
        normalised = norm(last, resid.to(last.w.device)).to(unembedding.device)
        return F.linear(normalised, unembedding).to(self.model.embed.W_E.device)

    def generate(self, input: str | Sequence[str] | Tensor, max_new_tokens: int = 32, **options: Any) -> Any:
        """Continue prompts with cached keys; options and result as for HookedDCFormer.generate."""
        return generate(self.model, input, max_new_tokens, step=self._step, **options)

    def stream(self, input: str, max_new_tokens: int = 32, **options: Any) -> Iterator[str]:
        """Yield the new text of one prompt piece by piece; options as for HookedDCFormer.generate."""
        return stream(self.model, input, max_new_tokens, step=self._step, **options)

    def _step(self, tokens: Tensor, mask: Tensor | None, caches: list[KeyCache]) -> Tensor:
        if not caches[0].length:
            return self(tokens, last=True, attention_mask=mask, caches=caches)
        # a token that was sampled here is one of the vocabulary: asking would wait for the GPU
        self._refuse_hooks()
        with torch.no_grad(), self._guarded("last", tokens, caches):
            return self.unembed(self._run(tokens, mask, caches)[:, -1])

    @contextmanager
    def tapped(self, *taps: Tap) -> Iterator[Engine]:
        """Call functions on every layer's LayerActivations, see HookedDCFormer.tapped: the model's taps are these."""
        with self.model.tapped(*taps):
            yield self

    # -- one layer -------------------------------------------------------------------------------------

    def _block(self, layer: int, resid: Tensor, at: Position) -> Tensor:
        block = self.model.blocks[layer]
        seen, q = self._attention_inputs(layer, norm(block.ln1, resid), at)
        z = composed_attention(
            q, seen.k, seen.v, seen.pre, seen.post, visible_keys=seen.visible_keys, query_start=seen.query_start,
            key_mask_BS=seen.key_mask, backend=self.backend,
        )  # fmt: skip
        middle = resid + F.linear(z.flatten(2), block.attn.wo.weight, block.attn.wo.bias)
        return middle + plain_mlp(block.mlp, norm(block.ln2, resid if self.cfg.parallel_attn_mlp else middle))

    def _attention_inputs(self, layer: int, x: Tensor, at: Position) -> tuple[Seen, Tensor]:
        attn = self.model.blocks[layer].attn
        cache = None if at.caches is None else at.caches[layer]
        if at.places is None or cache is None:
            return attn.tapped(*self._projected(layer, x, at), at.mask, cache)
        place, rotary = at.places[cache.slots], at.rotary

        def plainly() -> tuple[Seen, Tensor]:
            (q, k, v), sites = self._projected(layer, x, at)
            return cache.place(k, v, sites, place), q

        width = self.cfg.n_heads * self.cfg.d_head
        if rotary is None or not holds(self.cfg, x.dtype) or not kernels_take_steps(self.backend, width, x.device.type):
            return plainly()
        return kernels_or_else(lambda: fused_inputs(attn, x, rotary, cache, place), plainly, x)

    def _projected(
        self, layer: int, x: Tensor, at: Position
    ) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, Mixing]]:
        """Queries, keys and values as they enter attention, and the factors of both sites."""
        attn = self.model.blocks[layer].attn
        qkv = F.linear(x, attn.wqkv.weight, attn.wqkv.bias).unflatten(-1, (3, self.cfg.n_heads, self.cfg.d_head))
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.cfg.use_qk_norm:
            q, k = (F.rms_norm(a, a.shape[-1:], w, QK_NORM_EPS) for a, w in ((q, attn.q_norm), (k, attn.k_norm)))
        if at.rotary is not None:
            q, k = rotate(q, *at.rotary), rotate(k, *at.rotary)
        return (q, k, v), attn.mixing(x, watched=False)

    def _refuse_hooks(self) -> None:
        # HookPoint.has_hooks() of a thousand of them takes milliseconds, before every step
        hooked = [name for name, hook in self.model.hook_dict.items() if hook.fwd_hooks or hook.bwd_hooks]
        if hooked:
            raise ValueError(
                f"The engine runs no hooks, but the model has {len(hooked)}, the first on {hooked[0]}. "
                "Remove them (model.reset_hooks()), or run the hooked model itself."
            )


def recordable(model: HookedDCFormer) -> bool:
    """Is all of the model on one GPU?"""
    return {w.device.type for w in model.parameters()} == {"cuda"} and len({w.device for w in model.parameters()}) == 1


def norm(module: Norm, x: Tensor) -> Tensor:
    """RMSNorm or LayerNorm in one kernel."""
    if module.centred:
        return F.layer_norm(x, x.shape[-1:], module.w, module.b, module.eps)
    return F.rms_norm(x, x.shape[-1:], module.w, module.eps)


def plain_mlp(mlp: MLP, x: Tensor) -> Tensor:
    """MLP.forward without its hook points."""
    inward = F.linear(x, mlp.w_in.weight, mlp.w_in.bias)
    if mlp.cfg.gated_mlp:
        post = activate(mlp.cfg.act_fn, F.linear(x, mlp.w_gate.weight, mlp.w_gate.bias)) * inward
    else:
        post = activate(mlp.cfg.act_fn, inward)
    if mlp.cfg.mgate_groups is not None:
        shares = F.linear(x, mlp.w_mgate.weight).softmax(-1)
        post = (post.unflatten(-1, (mlp.cfg.mgate_groups, -1)) * shares[..., None]).flatten(-2)
    return F.linear(post, mlp.w_out.weight, mlp.w_out.bias)
