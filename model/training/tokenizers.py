"""The tokenizer of a run: the user's own, or a byte-level BPE trained on the text."""

from __future__ import annotations

import hashlib
import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from model.checkpoints.tokenizer_files import load_tokenizer
from model.plain_words import quoted
from model.training.fields import named_function, refuse_unknown, typed
from model.training.files import corpus_files, documents, take_place
from model.whole_files import sha256

END = "<|endoftext|>"


def open_tokenizer(spec: str | dict | None, cache: Path) -> Any | None:
    """What the key `tokenizer` of a training file means; see TrainConfig.

    Args:
        cache: folder in which a tokenizer that is trained here is kept for the next run.
    Raises:
        ValueError: it cannot be read, found or trained.
    """
    if spec is None:
        return None
    if isinstance(spec, dict):
        return _trained(spec, cache)
    path = Path(spec).expanduser()
    if path.is_dir():
        return _need(load_tokenizer(path, sys.maxsize), path)
    if path.is_file():
        return _from_file(path)
    if ":" in spec:
        return named_function(spec, "tokenizer")()
    raise ValueError(f"tokenizer {quoted(spec)} is no folder, no tokenizer.json and no module:function.")


def train_bpe(files: list[Path], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE: no text is unknown to it, and decoding gives every text back.

    Args:
        files: text or .jsonl files, as model.training.files.documents reads them.
        vocab_size: of the 256 bytes, the end token and the merges together; reached if the text is long enough.
    """
    if vocab_size < 257:
        raise ValueError(f"vocab_size={vocab_size} must be at least 257: the 256 bytes and {END}.")
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, special_tokens=[END], show_progress=False
    )
    learner.train_from_iterator(_pieces(files), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=learner, eos_token=END, clean_up_tokenization_spaces=False)


def fingerprint(tokenizer: Any) -> str:
    """The same for tokenizers that split every text alike."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(rules.encode()).hexdigest()


def _pieces(files: list[Path]) -> Iterator[str]:
    return (piece for path in files for document in documents(path) for piece in document)


def _need(tokenizer: Any | None, path: Path) -> Any:
    if tokenizer is None:
        raise ValueError(f"{path} holds no tokenizer. Give a folder with tokenizer.json, or vocab.json and merges.txt.")
    return tokenizer


def _from_file(path: Path) -> PreTrainedTokenizerFast:
    try:
        return PreTrainedTokenizerFast(tokenizer_file=str(path))
    except Exception as error:
        # the tokenizers library raises bare Exception on a file that it cannot read
        raise ValueError(f"{path} is no tokenizer.json: {str(error).partition(chr(10))[0]}.") from error


def _trained(spec: dict, cache: Path) -> Any:
    refuse_unknown("tokenizer", spec, ("files", "vocab_size"))
    if set(spec) != {"files", "vocab_size"}:
        raise ValueError(f"tokenizer is trained from files and vocab_size; got {', '.join(spec) or 'neither'}.")
    size = typed("tokenizer.vocab_size", spec["vocab_size"], int)
    files = corpus_files(spec["files"])
    key = hashlib.sha256("\n".join([str(size), *map(sha256, files)]).encode()).hexdigest()[:16]
    folder = cache / f"bpe-{key}"
    if not folder.is_dir():
        aside = cache / f".bpe-{key}.{uuid.uuid4().hex}"
        train_bpe(files, size).save_pretrained(aside)
        take_place(aside, folder)
    return _need(load_tokenizer(folder, sys.maxsize), folder)
