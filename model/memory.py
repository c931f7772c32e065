"""How much memory a run takes, said before it is tried: the weights, the engine's tensors at their peak, what is kept.

A run needs most memory in one of three moments: in a block's attention, in a block's MLP, or at the logits. Each is
counted from the sizes of the tensors that are alive then; the largest is the prediction. benchmarks/memory_plan.py
measures it, and a test holds it to the tensors that the engine really makes. free_memory.py compares it with what is
free.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.backends.eager import BLOCK_CELLS, OTHER_BLOCK_CELLS
from model.backends.triton_backend import kernels_found
from model.backends.triton_memory import prefill_bytes, single_query_bytes
from model.config import DCFormerConfig, dtype_name, parse_dtype
from model.transformer import HookedDCFormer

Parts = dict[str, int]
"""Bytes by the name of what takes them; the names are the keys of MEANINGS."""

MODES = {
    "last": "run for the last position's logits",
    "logits": "run for all logits",
    "generate": "generation",
    "capture": "capture",
    "train": "training step",
}
"""What can be planned, in words; see Run."""

MEANINGS = {
    "weights": "all parameters",
    "gradients": "one number for each parameter",
    "AdamW states": "two running averages of each parameter",
    "AdamW in the making": "one number for each parameter while the optimizer steps",
    "key cache": "keys, values and key factors of every layer; a local layer keeps only the keys it may see",
    "kept by the capture": "queries, keys, values and mixing factors of every layer",
    "capture in the making": "the same once more, until each prompt has been cut out of its batch",
    "kept logits": "float32 logits of every position, in the capture",
    "residual stream": "the block's input, its sum with the attention, and what the norm makes of it",
    "queries, keys, values": "of one layer, as projected and as they enter the attention",
    "mixing factors": "of one layer, both sites",
    "attention": "working copies and one block of maps in one layer's composed attention",
    "head outputs": "of one layer, before the output projection",
    "MLP": "of one layer, at its widest",
    "activations": "of every layer, kept for the backward pass",
    "logits": "of the positions asked for",
    "maps of one layer": "the four float32 maps of every head",
    "maps of all layers": "the same of every layer",
}


MODEL_PARTS = ("weights", "gradients", "AdamW states", "AdamW in the making")
"""What depends on the model alone, not on its input."""


@dataclass(frozen=True)
class Run:
    """One run, as far as memory goes.

    mode: "last" and "logits" (the engine with the last position's logits or all), "generate" (with a key cache for
        all tokens), "capture" (through the engine, all layers), "train" (one step of AdamW), or "residual" (no logits).
    tokens: new positions of each of `batch` sequences. keys: positions that they attend over, cached ones included.
    dtype: of the weights and activations. device: its type, "cpu" or "cuda", say.
    room: tokens of each sequence that a key cache is made for; 0 = none.
    kept_layers, kept_logits: what a capture keeps; None = all layers.
    """

    cfg: DCFormerConfig
    mode: str
    batch: int
    tokens: int
    keys: int
    dtype: torch.dtype
    device: str
    room: int = 0
    kept_layers: int | None = None
    kept_logits: bool = True

    @property
    def positions(self) -> int:
        return self.batch * self.tokens

    def bytes_of(self, numbers: int, dtype: torch.dtype | None = None) -> int:
        """Bytes of so many numbers at each new position, in the run's dtype or another."""
        return self.positions * numbers * (dtype or self.dtype).itemsize

    @property
    def wide(self) -> torch.dtype:
        """The dtype of attention maps: at least float32."""
        return torch.promote_types(self.dtype, torch.float32)

    def __str__(self) -> str:
        what = MODES.get(self.mode, "run without logits")
        return f"{what} of {self.batch} x {self.tokens} tokens in {dtype_name(self.dtype)}"


@dataclass(frozen=True)
class MemoryPlan:
    """What a run takes at its peak, in bytes.

    parts: alive on the device at the peak; they sum to total. in_main_memory: what a run on an accelerator keeps
    beside it, outside the device. if_asked: not part of the run: what whole maps would take on top.
    """

    run: Run
    parts: Parts
    in_main_memory: Parts
    if_asked: Parts

    @property
    def total(self) -> int:
        """Bytes on the device at the peak."""
        return sum(self.parts.values())

    def fits(self, free_bytes: int) -> bool:
        """Is so much free memory on the device enough?"""
        return self.total <= free_bytes

    def rows(self) -> list[tuple[str, int, str]]:
        """(name, bytes, meaning) of every part, the parts of total first and the largest first among them."""
        ordered = sorted(self.parts.items(), key=lambda part: -part[1])
        return [(name, size, MEANINGS[name]) for name, size in (*ordered, *self.in_main_memory.items(),
                                                                *self.if_asked.items())]  # fmt: skip


def plan(
    cfg: DCFormerConfig, *, tokens: int, batch: int = 1, dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu", mode: str = "last",
) -> MemoryPlan:  # fmt: skip
    """Predict the memory of a model and one run of it; nothing of that size is made.

    Args:
        tokens: of each sequence; with mode "generate" prompt and new tokens together.
        dtype: of weights and activations; None = the configuration's.
        device: where it will run; it need not be there.
        mode: one of MODES, see Run.
    Raises:
        ValueError: an unknown mode or dtype, no tokens, or more than the model's context.
    """
    if mode not in MODES:
        raise ValueError(f"Unknown mode {mode!r}. Choose one of {', '.join(MODES)}.")
    if tokens < 1 or batch < 1:
        raise ValueError(f"tokens and batch must be at least 1, got tokens={tokens}, batch={batch}.")
    if tokens > cfg.n_ctx:
        raise ValueError(f"tokens={tokens} was given but the context of this model is {cfg.n_ctx}. Lower tokens.")
    used = cfg.dtype if dtype is None else parse_dtype(dtype)
    room = tokens if mode == "generate" else 0
    run = Run(cfg, mode, batch, tokens, tokens, used, torch.device(device).type, room)
    weights = parameter_count(cfg) * used.itemsize
    if mode == "train":
        return MemoryPlan(run, training(run, weights), {}, whole_maps(run))
    peak, in_main_memory = engine_peak(run)
    return MemoryPlan(run, {"weights": weights} | peak, in_main_memory, whole_maps(run))


def parameter_count(cfg: DCFormerConfig) -> int:
    """How many numbers the weights of such a model are; tied embeddings count once."""
    with torch.device("meta"):
        model = HookedDCFormer(cfg, seed=None)
    return sum(parameter.numel() for parameter in model.parameters())


# -- the engine ------------------------------------------------------------------------------------


def engine_peak(run: Run) -> tuple[Parts, Parts]:
    """What a run of the engine takes beside the weights: on its device at the peak, and in main memory."""
    cache = {"key cache": key_cache_bytes(run)} if run.room else {}
    if run.mode == "capture":
        peak, in_main_memory = _capture_peak(run)
        return cache | peak, in_main_memory
    return cache | _larger(_in_attention(run), _in_mlp(run), _at_logits(run)), {}


def _larger(*moments: Parts) -> Parts:
    return max(moments, key=lambda parts: sum(parts.values()))


def _in_attention(run: Run) -> Parts:
    return _of_layer(run) | {
        "residual stream": run.bytes_of(run.cfg.d_model),
        "attention": attention_peak(run.cfg, run.tokens, run.batch, keys=run.keys, dtype=run.dtype, device=run.device),
    }


def _in_mlp(run: Run) -> Parts:
    cfg = run.cfg
    # gated: both projections and a product; otherwise one projection and its activation
    widths = 3 if cfg.gated_mlp else 2
    return _of_layer(run) | {
        "residual stream": run.bytes_of(3 * cfg.d_model),
        "head outputs": run.bytes_of(cfg.n_heads * cfg.d_head),
        "MLP": run.bytes_of(widths * int(cfg.d_mlp or 0)),
    }


def _at_logits(run: Run) -> Parts:
    cfg = run.cfg
    if run.mode == "residual":
        return {}
    positions = run.positions if run.mode == "logits" else run.batch
    return {
        "residual stream": run.bytes_of(cfg.d_model) + positions * cfg.d_model * run.dtype.itemsize,
        "logits": positions * cfg.d_vocab * run.dtype.itemsize,
    }


def _of_layer(run: Run) -> Parts:
    """What one layer holds until its block is done."""
    cfg = run.cfg
    width, networks = cfg.n_heads * cfg.d_head, len(cfg.mixed_sites) * len(cfg.dynamic_sides)
    # the fused projection lives as long as the values, which are a view of it
    made_anew = 2 * width if cfg.use_qk_norm or cfg.rotary_width else 0
    return {
        "queries, keys, values": run.bytes_of(3 * width + made_anew),
        # down as computed and once more normalised, up, gate
        "mixing factors": run.bytes_of(networks * cfg.n_heads * (3 * cfg.rank + 1)),
    }


def attention_peak(
    cfg: DCFormerConfig, tokens: int, batch: int, *, keys: int | None = None, dtype: torch.dtype, device: str
) -> int:
    """Bytes that composed_attention makes in one layer at its peak, its result included.

    On a GPU where Triton is installed it is what its kernels hold, else the same for eager and compiled backends.
    What the compiler itself takes, about 130 MiB of main memory once a process, is not counted.

    Args:
        tokens: queries. keys: that they attend over, as many if None.
        device: its type, which decides how large a block of maps is.
    """
    keys = keys or tokens
    wide = torch.promote_types(dtype, torch.float32).itemsize
    width, cast = cfg.n_heads * cfg.d_head, dtype.itemsize != wide
    if not cfg.mixed_sites:
        # the outputs of the blocks and all of them joined; fused kernels hold no map
        return batch * tokens * width * dtype.itemsize * 2
    if kernels_found(device) and dtype != torch.float64:
        if tokens == 1:
            return single_query_bytes(batch, keys, cfg.n_heads, cfg.d_head, dtype)
        sides = [len(cfg.mixed_sites) * (side in cfg.dynamic_sides) for side in ("query", "key")]
        return prefill_bytes(
            batch, tokens, keys, cfg.n_heads, cfg.d_head, cfg.rank, query_sides=sides[0], key_sides=sides[1],
            dtype=dtype,
        )  # fmt: skip
    if tokens == 1:
        # a single query reads keys and values where they stand, in the dtype of its maps
        return batch * keys * (2 * width * cast + 3 * cfg.n_heads) * wide
    # queries are scaled and values laid out anew; keys are copied only into another dtype
    inputs = batch * width * (2 * tokens + keys * cast)
    matrices = batch * tokens * _matrix_numbers(cfg)
    key_factors = batch * keys * cfg.n_heads * (2 * cfg.rank + 1) if "key" in cfg.sides else 0
    sites = len(cfg.mixed_sites)
    # each site's matrices are the sum of the low-rank and the gate part, three of them in the making
    making = (sites + 2) * matrices + (sites - 1) * key_factors
    cells = min(BLOCK_CELLS.get(device, OTHER_BLOCK_CELLS), batch * cfg.n_heads * tokens * keys)
    results = batch * tokens * (width + cfg.n_heads)
    # raw maps, mixed ones and one in the making; adding the key side takes one more
    maps = cells * (4 if "key" in cfg.sides else 3)
    return (inputs + max(making, sites * (matrices + key_factors) + results + maps)) * wide


def _matrix_numbers(cfg: DCFormerConfig) -> int:
    """Numbers in the matrix base + Q(i) of one token and site; without a query side all tokens share one."""
    return cfg.n_heads * cfg.heads_per_group if "query" in cfg.dynamic_sides else 0


def key_cache_bytes(run: Run) -> int:
    """Bytes of the key cache of all layers."""
    cfg = run.cfg
    factors = len(cfg.mixed_sites) * (2 * cfg.rank + 1) * cfg.n_heads if "key" in cfg.dynamic_sides else 0
    slots = sum(run.room if seen is None else min(run.room, seen) for seen in cfg.keys_visible)
    return run.batch * slots * (2 * cfg.n_heads * cfg.d_head + factors) * run.dtype.itemsize


def _capture_peak(run: Run) -> tuple[Parts, Parts]:
    """A capture: while the engine runs, or at the end, when prompts are cut out one by one."""
    cfg = run.cfg
    width, networks = cfg.n_heads * cfg.d_head, len(cfg.mixed_sites) * len(cfg.dynamic_sides)
    layers = cfg.n_layers if run.kept_layers is None else run.kept_layers
    kept = layers * run.bytes_of(3 * width + networks * cfg.n_heads * (2 * cfg.rank + 1))
    # the engine's own factors, of which the finished capture copies a part
    recorded = layers * run.bytes_of(3 * width + networks * cfg.n_heads * (3 * cfg.rank + 1))
    finished = {
        "kept by the capture": kept,
        "capture in the making": recorded,
        "kept logits": run.bytes_of(cfg.d_vocab, torch.float32) * run.kept_logits,
    }
    stream = {"residual stream": run.bytes_of(2 * cfg.d_model)}
    # of one prompt; what is kept is these very numbers where they need no cast and no move
    logits, cast = run.tokens * cfg.d_vocab * run.kept_logits, run.dtype != torch.float32
    if run.device != "cpu":
        at_logits = stream | {"logits": logits * (run.dtype.itemsize + 4 * cast)}
        return _larger(_in_attention(run), _in_mlp(run), at_logits), finished
    running = {"capture in the making": recorded} | _larger(_in_attention(run), _in_mlp(run))
    return _larger(running, finished | stream | {"logits": logits * run.dtype.itemsize * cast}), {}


def whole_maps(run: Run) -> Parts:
    """What the four whole maps of every head would take."""
    one = 4 * run.positions * run.keys * run.cfg.n_heads * torch.float32.itemsize
    return {"maps of one layer": one, "maps of all layers": one * run.cfg.n_layers}


# -- training --------------------------------------------------------------------------------------


def training(run: Run, weights: int) -> Parts:
    """A step of AdamW on the hooked model at its peak: at the loss, or while the optimizer steps.

    Activations of all layers are kept for the backward pass; in between, they go as the gradients come.
    """
    always = {"weights": weights, "AdamW states": 2 * weights}
    # the logits' log-softmax, its gradient and that of the logits
    at_loss = {"activations": _saved_activations(run), "logits": 3 * run.bytes_of(run.cfg.d_vocab, run.wide)}
    at_step = {"gradients": weights, "AdamW in the making": weights}
    return always | max((at_loss, at_step), key=lambda parts: sum(parts.values()))


def _saved_activations(run: Run) -> int:
    """Bytes that the hooked model's forward pass keeps for its backward pass, all layers."""
    cfg = run.cfg
    width, mlp = cfg.n_heads * cfg.d_head, int(cfg.d_mlp or 0) * (4 if cfg.gated_mlp else 2)
    networks, factors = len(cfg.mixed_sites) * len(cfg.dynamic_sides), cfg.n_heads * (2 * cfg.rank + 1)
    matrices = len(cfg.mixed_sites) * _matrix_numbers(cfg)
    # wide: each norm's input, queries and keys before their norm, what attention reads; the rest as computed
    query_key_norm = 2 * width if cfg.use_qk_norm else 0
    wide = 2 * cfg.d_model + 3 * width + query_key_norm + matrices + networks * factors
    narrow = (
        4 * cfg.d_model + width + query_key_norm + mlp + networks * (3 * cfg.mixing_hidden * cfg.groups + 2 * factors)
    )
    return cfg.n_layers * (run.bytes_of(wide, run.wide) + run.bytes_of(narrow))


def in_words(size: int) -> str:
    """Bytes as "3.2 GiB", or "640 MiB" or "12 KiB" where that is less than one of the larger unit."""
    if size < 2**20:
        return f"{size / 2**10:.0f} KiB"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
