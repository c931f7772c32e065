"""Checkpoint directories for tests, written from random models tensor by tensor, without the code under test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from model import DCFormerConfig, HookedDCFormer
from tests.models import some_tokens

SIZES: dict[str, Any] = {
    "n_layers": 3, "d_model": 24, "n_heads": 6, "d_head": 4, "d_mlp": 20, "n_ctx": 19, "d_vocab": 31,
    "visible_keys": (5, None, 5),
}  # fmt: skip


def random_model(architecture: str = "llama", seed: int = 0, **fields: Any) -> HookedDCFormer:
    """A small model in which no weight has a special value: norms are not 1, biases and static W not 0."""
    cfg = DCFormerConfig.from_architecture(architecture, **(SIZES | {"device": "cpu"} | fields))
    model = HookedDCFormer(cfg, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def word_tokenizer(size: int = 31, **settings: Any) -> PreTrainedTokenizerFast:
    """Words w0, w1, ... separated by spaces; w0 is BOS and unknown, w1 the end."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(size)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w1", unk_token="w0", **settings)


def published_config(model: HookedDCFormer) -> dict[str, Any]:
    """config.json as the published code writes it."""
    cfg = model.cfg
    pythia = cfg.normalization_type == "LN"
    windows = [keys for keys in cfg.visible_keys or () if keys is not None]
    config = {
        "model_type": "dcpythia" if pythia else "dcformer", "block_size": cfg.n_ctx, "vocab_size": cfg.d_vocab,
        "n_layer": cfg.n_layers, "n_head": cfg.n_heads, "n_local_heads": cfg.n_heads, "dim": cfg.d_model,
        "head_dim": cfg.d_head, "intermediate_size": cfg.d_mlp, "use_qk_norm": cfg.use_qk_norm,
        "window_size": windows[0] - pythia if windows else None, "window_type": None, "norm_eps": cfg.eps,
        "rope_base": cfg.rotary_base, "use_dcmha": cfg.compose, "query_wise": False, "is_training": False,
        "tie_word_embeddings": cfg.tie_embeddings, "torch_dtype": str(cfg.dtype).removeprefix("torch."),
        "q_chunk_size": 128, "auto_map": {"AutoModelForCausalLM": "modeling_dcformer.DCFormer"},
    }  # fmt: skip
    if pythia:
        config |= {"rotary_pct": cfg.rotary_width / cfg.d_head, "use_linear_bias": cfg.use_bias}
        config["use_parallel_residual"] = cfg.parallel_attn_mlp
    elif cfg.mgate_groups is not None:
        config |= {"mgate": True, "mgate_dim": cfg.mgate_groups}
    return config


def published_tensors(model: HookedDCFormer, split_qkv: bool = False, derived: bool = True) -> dict[str, Tensor]:
    """The tensors of a published file. split_qkv: wq, wk, wv apart; derived: the copies that such files hold too."""
    state = {name: weight.detach() for name, weight in model.named_parameters()}
    tensors = {"tok_embeddings.weight": state["embed.W_E"], "output.weight": model.unembed.weight.detach()}
    tensors |= _renamed(state, "ln_final", "norm")
    for layer in range(model.cfg.n_layers):
        ours, theirs = f"blocks.{layer}", f"layers.{layer}"
        tensors |= _renamed(state, f"{ours}.ln1", f"{theirs}.attention_norm")
        tensors |= _renamed(state, f"{ours}.ln2", f"{theirs}.ffn_norm")
        tensors |= _renamed(state, f"{ours}.attn.wo", f"{theirs}.attention.wo")
        tensors |= _renamed(state, f"{ours}.attn.wqkv", f"{theirs}.attention.wqkv")
        for name in ("q_norm", "k_norm"):
            if f"{ours}.attn.{name}" in state:
                tensors[f"{theirs}.attention.{name}.scale"] = state[f"{ours}.attn.{name}"]
        mlp = {"w_gate": "w1", "w_in": "w3", "w_out": "w2"} if model.cfg.gated_mlp else {"w_in": "w1", "w_out": "w2"}
        for our_name, their_name in (mlp | {"w_mgate": "mg"}).items():
            tensors |= _renamed(state, f"{ours}.mlp.{our_name}", f"{theirs}.feed_forward.{their_name}")
        if model.cfg.compose:
            tensors |= _mixing(model, layer, derived)
    if split_qkv:
        for name in [name for name in tensors if ".wqkv." in name]:
            parts = tensors.pop(name).chunk(3)
            tensors |= {name.replace("wqkv", part): rows for part, rows in zip(("wq", "wk", "wv"), parts, strict=True)}
    if derived:
        tensors["freqs_cis"] = torch.zeros(model.cfg.n_ctx, 2, 2)
        tensors["causal_mask"] = torch.ones(7, 7, dtype=torch.bool)
        tensors["layers.0.attention.kv_cache.k_cache"] = torch.zeros(1, 2, 3)
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def _renamed(state: Mapping[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    kinds = {"w": "weight", "b": "bias", "weight": "weight", "bias": "bias"}
    return {f"{theirs}.{kinds[kind]}": state[f"{ours}.{kind}"] for kind in kinds if f"{ours}.{kind}" in state}


def _mixing(model: HookedDCFormer, layer: int, derived: bool) -> dict[str, Tensor]:
    attention, G, N = model.blocks[layer].attn, model.cfg.groups, model.cfg.heads_per_group
    hidden, factors, gates = (getattr(attention, f"mix_{kind}").detach() for kind in ("hidden", "factors", "gates"))
    K, R2, D = hidden.shape[2], factors.shape[3], model.cfg.d_model
    dw1, qkw, dd = (torch.zeros(shape, dtype=hidden.dtype) for shape in ((D, G, 4, K), (G, 4, K, R2, N), (D, G, 4 * N)))
    for g in range(G):
        for c in range(4):
            dw1[:, g, c] = hidden[c, g].T
            qkw[g, c] = factors[c, g]
            for n in range(N):
                dd[:, g, c * N + n] = gates[c, g * N + n]
    prefix = f"layers.{layer}.attention.dyn_w_proj"
    tensors = {f"{prefix}.dw1": dw1, f"{prefix}.qkw": qkw, f"{prefix}.dd": dd}
    for site in ("pre", "post"):
        static = model.cfg.static_mixing
        blocks = getattr(attention, site).static_blocks.detach() if static else torch.eye(N).expand(G, N, N)
        tensors[f"{prefix}.{site}_proj.w"] = blocks.to(dw1.dtype)
    if derived:
        tensors |= {f"{prefix}.dw_m": torch.zeros(D, 3), f"{prefix}.qkw_m": torch.zeros(4, K, 5)}
        tensors[f"{prefix}.sw"] = torch.zeros(2, N, N)
    return tensors


def write_directory(
    directory: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    shards: int = 1,
    torch_file: bool = False,
) -> Path:
    """config.json and weights, whole or in shards with an index, as safetensors or as torch files."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(dict(config)))
    stem, suffix = ("pytorch_model", "bin") if torch_file else ("model", "safetensors")
    if shards == 1:
        _write(dict(tensors), directory / f"{stem}.{suffix}", torch_file)
        return directory
    weight_map: dict[str, str] = {}
    for number in range(shards):
        name = f"{stem}-{number + 1:05d}-of-{shards:05d}.{suffix}"
        part = dict(list(tensors.items())[number::shards])
        _write(part, directory / name, torch_file)
        weight_map |= dict.fromkeys(part, name)
    (directory / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory


def _write(tensors: dict[str, Tensor], path: Path, torch_file: bool) -> None:
    if torch_file:
        torch.save(tensors, path)
    else:
        save_file(tensors, path)


def write_published(
    model: HookedDCFormer, directory: Path, changes: Mapping[str, Any] | None = None, **how: Any
) -> Path:
    """A published directory of this model; changes are laid over config.json (None: the key is null)."""
    options = {key: how.pop(key) for key in ("split_qkv", "derived") if key in how}
    config = published_config(model) | dict(changes or {})
    return write_directory(directory, config, published_tensors(model, **options), **how)


def write_neox(directory: Path, seed: int = 0, **changes: Any) -> GPTNeoXForCausalLM:
    """A random GPT-NeoX of transformers' own, saved by it; returned for comparison."""
    settings = {
        "vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 20,
        "max_position_embeddings": 19, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    torch.manual_seed(seed)
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**(settings | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
    model.save_pretrained(directory)
    return model


def assert_same(loaded: HookedDCFormer, model: HookedDCFormer) -> None:
    """The same architecture and the same bits, weight by weight, and so the same logits."""
    ignored = {"model_name", "eos_token_id"}
    mine, theirs = (m.cfg.to_json_dict() for m in (loaded, model))
    assert {k: v for k, v in mine.items() if k not in ignored} == {k: v for k, v in theirs.items() if k not in ignored}
    given, truth = dict(loaded.named_parameters()), dict(model.named_parameters())
    assert given.keys() == truth.keys()
    for name, weight in truth.items():
        assert given[name].dtype == weight.dtype
        assert torch.equal(given[name], weight), name
    tokens = some_tokens(2, 11, vocabulary=model.cfg.d_vocab)
    assert torch.equal(loaded(tokens), model(tokens))
