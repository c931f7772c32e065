"""Valid model directories, small and of every layout, for the components of the checkpoint reader."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

import torch

from model import load_model, save_model
from model.checkpoints import ModelLoadError
from tests.checkpoint_dirs import random_model, word_tokenizer, write_neox, write_published
from tests.fuzzing.component import files_of
from tests.fuzzing.mutations import Files

ERRORS = (ModelLoadError,)
TINY = {"n_layers": 2, "d_model": 12, "n_heads": 6, "d_head": 2, "d_mlp": 10, "n_ctx": 9, "visible_keys": (3, None)}


@cache
def directories(kind: str) -> dict[str, Files]:
    """Directories by layout. kind: "whole" (one safetensors file), "shards", "torch" or "torch shards"."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        how = {"torch_file": kind.startswith("torch"), "shards": 3 if "shards" in kind else 1}
        write_published(random_model(**TINY, static_mixing=True), here / "dcformer", **how)
        write_published(random_model("neox", **TINY, groups=2), here / "dcpythia", **how)
        if kind == "whole":
            save_model(random_model(**TINY, static_mixing=True), here / "own")
            write_neox(
                here / "gpt-neox", hidden_size=16, num_attention_heads=2, num_hidden_layers=2, intermediate_size=10
            )
        for directory in sorted(here.iterdir()):
            found[directory.name] = files_of(directory)
    return found


@cache
def tokenizers() -> dict[str, Files]:
    """One model with each kind of tokenizer beside it."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        model = random_model(**TINY)
        model.tokenizer = word_tokenizer()
        save_model(model, here / "words")
        found["words"] = files_of(here / "words")
    bare = {name: found["words"][name] for name in ("config.json", "model.safetensors")}
    pieces = ["ab", "a", "b", "w", *"0123456789.,:;!?+-*/", "\u0120"]
    vocabulary = json.dumps({piece: number for number, piece in enumerate(pieces)})
    found["GPT-2"] = bare | {"vocab.json": vocabulary.encode(), "merges.txt": b"#version: 0.2\na b\n"}
    return found


def load(folder: Path) -> None:
    """Load the directory, and run what was loaded on three tokens: what is accepted must work."""
    model = load_model(folder, device="cpu")
    tokens = torch.arange(min(3, model.cfg.n_ctx))[None] % model.cfg.d_vocab
    logits = model(tokens)
    assert logits.shape == (1, tokens.shape[1], model.cfg.d_vocab)
