"""A folder of small models that stand beside the bundled pair in the tests of comparisons."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from model import HookedDCFormer, load_model, save_model
from tests.models import small_config

WORDS = 1664
"""Token ids of the bundled pair."""


def turned_tokenizer(folder: Path, by: int = 7) -> PreTrainedTokenizerFast:
    """The bundled tokenizer with other ids: it cuts texts at the same places, and no word keeps its id."""
    load_model("demo/dcformer").tokenizer.save_pretrained(folder / "tokenizer")
    described = json.loads((folder / "tokenizer" / "tokenizer.json").read_text("utf-8"))
    words = described["model"]["vocab"]
    described["model"]["vocab"] = {word: (at + by) % len(words) for word, at in words.items()}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(described)))


def model_folder(folder: Path) -> dict[str, str]:
    """Writes the models; their names as load_model takes them.

    turned: the bundled pair's size of vocabulary with other ids. shallow: fewer layers than the pair. wide: as many
    layers, more heads. wordless: without a tokenizer. Those that read text read the same tokens as the pair.
    """
    bundled = load_model("demo/dcformer").tokenizer
    made = {
        "turned": ({"n_layers": 4}, turned_tokenizer(folder)), "shallow": ({"n_layers": 2}, bundled),
        "wide": ({"n_layers": 4, "n_heads": 10}, bundled), "wordless": ({"n_layers": 4}, None),
    }  # fmt: skip
    names = {}
    for seed, (name, (sizes, tokenizer)) in enumerate(made.items()):
        cfg = small_config("llama", d_vocab=WORDS, n_ctx=64, dtype="float32", **sizes)
        model = HookedDCFormer(cfg, tokenizer, seed=seed)
        names[name] = str(save_model(model, folder / "models" / name))
    return names
