"""Tokenizers beside the weights: found by their files, whatever config.json calls the model, with no remote code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

from model.checkpoints.errors import ModelLoadError
from model.checkpoints.fields import read_json
from model.plain_words import one_line

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model",
)  # fmt: skip
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


def load_tokenizer(directory: Path, d_vocab: int) -> Any | None:
    """The directory's tokenizer, or None where it holds none.

    Raises:
        ModelLoadError: its files cannot be read, or it makes ids that the model has no embedding for.
    """
    files = [name for name in _VOCABULARIES if (directory / name).is_file()]
    if not files:
        return None
    try:
        tokenizer = _read(directory)
        _try_out(tokenizer)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # each tokenizer library fails in its own way on a damaged file (one written in Rust panics, which is no
        # Exception); all of them mean the same here
        reason = one_line(str(error).strip().partition("\n")[0] or type(error).__name__).rstrip(".")
        raise ModelLoadError(
            f"The tokenizer in {directory} ({', '.join(files)}) cannot be read: {reason}. "
            "Fetch its files again, or remove them to use token ids alone."
        ) from error
    # tokens added beyond the vocabulary may have no embedding (GPT-NeoX's runs of spaces in a model of 50257):
    # the model refuses their ids when a text has them
    if tokenizer.vocab_size > d_vocab:
        raise ModelLoadError(
            f"The tokenizer in {directory} has a vocabulary of {tokenizer.vocab_size}, the model only "
            f"d_vocab={d_vocab}. It belongs to another model: put the right tokenizer.json there, or remove it."
        )
    return tokenizer


def _read(directory: Path) -> Any:
    present = {name for name in TOKENIZER_FILES if (directory / name).is_file()}
    # a class by the files, where they say enough: AutoTokenizer may ask config.json for a model_type it knows
    if "tokenizer.json" in present:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(directory, local_files_only=True)
    elif {"vocab.json", "merges.txt"} <= present:
        tokenizer = GPT2Tokenizer.from_pretrained(directory, local_files_only=True)
    else:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    settings = read_json(directory / "tokenizer_config.json") if "tokenizer_config.json" in present else {}
    wanted = settings.get("add_bos_token")
    if isinstance(wanted, bool) and wanted != puts_bos_first(tokenizer):
        # these classes skip the setting; set here, it goes into the post-processor and so survives saving
        tokenizer.add_bos_token = wanted
    return tokenizer


def _try_out(tokenizer: Any) -> None:
    """Use all that will be used of it: some damage shows only then."""
    tokenizer.decode(tokenizer.encode("a b"), clean_up_tokenization_spaces=False)
    puts_bos_first(tokenizer)
    if not all(one is None or isinstance(one, int) for one in (tokenizer.bos_token_id, tokenizer.eos_token_id)):
        raise ValueError("its BOS or end token is no single token")


def puts_bos_first(tokenizer: Any | None) -> bool:
    """Does the tokenizer's own configuration start a text with BOS?"""
    if tokenizer is None or tokenizer.bos_token_id is None:
        return False
    return list(tokenizer.encode(""))[:1] == [tokenizer.bos_token_id]
