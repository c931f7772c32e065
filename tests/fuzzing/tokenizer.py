"""Tokenizer files beside a model: tokenizer.json, vocab.json, merges.txt and their settings."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import strategies as st

from model import load_model
from tests.fuzzing.checkpoint_files import ERRORS, tokenizers
from tests.fuzzing.component import Component
from tests.fuzzing.mutations import VALUES, Draw, Files, harm_bytes, harm_json, one_of_files

MODEL = ("config.json", "model.safetensors")
WORDS = (
    "WordLevel", "BPE", "WordPiece", "Unigram", "ByteLevel", "Whitespace", "WhitespaceSplit", "Split",
    "Sequence", "Replace",
    "Lowercase", "Precompiled", "TemplateProcessing", "Fixed", "Right", "Removed", "w0", "w1",
    "PreTrainedTokenizerFast",
    "LlamaTokenizer", "BertTokenizer", "../x", "(a+)+$", "[unclosed",
)  # fmt: skip
ADDED = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "vocab.json", "merges.txt", "vocab.txt",
         "tokenizer.model", "spiece.model")  # fmt: skip


def component() -> Component:
    return Component("tokenizer", tokenizers, harm, read, ERRORS)


def harm(draw: Draw, files: Files) -> str:
    name = one_of_files(draw, files, [name for name in files if name not in MODEL])
    kind = draw(st.sampled_from(["bytes", "json", "json", "json", "remove", "strange file", "code"]))
    if kind == "code":
        return _code(draw, files)
    if kind == "remove":
        del files[name]
        return f"{name} removed"
    if kind == "strange file":
        name = draw(st.sampled_from(ADDED))
        content = json.dumps(draw(VALUES)).encode("utf-8", "surrogatepass")
        files[name] = draw(st.sampled_from([content, content, b"{{ ''.__class__ }}", b"\x0a\x03\xff" * 9]))
        return f"a strange {name}"
    if kind == "json" and name.endswith(".json"):
        files[name], told = harm_json(draw, json.loads(files[name]), VALUES | st.sampled_from(WORDS))
    else:
        files[name], told = harm_bytes(draw, files[name])
    return f"{name}: {told}"


def _code(draw: Draw, files: Files) -> str:
    """Settings that ask for code of the directory's own to be run."""
    settings = json.loads(files.get("tokenizer_config.json", b"{}"))
    settings |= {"auto_map": {"AutoTokenizer": [draw(st.sampled_from(["own.Own", None])), "own.Own"]}}
    settings["tokenizer_class"] = draw(st.sampled_from(["Own", "OwnFast", "PreTrainedTokenizerFast", "GPT2Tokenizer"]))
    files["tokenizer_config.json"] = json.dumps(settings).encode()
    files["own.py"] = (
        b"import os\nopen(os.path.join(os.environ['PAYLOAD_RAN'], 'PAYLOAD_RAN'), 'w').close()\n"
        b"from transformers import PreTrainedTokenizerFast as Own\n"
    )
    if draw(st.booleans()):
        files.pop("tokenizer.json", None)
        files["vocab.txt"] = b"a\nb\n"
    return "code of its own"


def read(folder: Path) -> None:
    model = load_model(folder, device="cpu")
    if model.tokenizer is not None:
        # what a text becomes may still be refused, in a sentence of its own
        try:
            tokens = model.to_tokens("w1 w2 ab")
        except ValueError:
            return
        model.to_str_tokens(tokens)
