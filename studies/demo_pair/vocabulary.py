"""The pair's tokenizer: byte-level BPE in which every word of the tasks, with its leading space, is one token."""

from __future__ import annotations

import json
import re

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from probes.tasks import generate, words

END = "<|endoftext|>"
MERGED_SIZE = 600
"""Entries that BPE itself finds, 256 bytes included; whole words come on top."""


def task_tokenizer() -> PreTrainedTokenizerFast:
    """Learn merges from generated rows, then add whole words; no text is unknown and decoding gives it back."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "".join(row.plain_text for row in generate(rows_per_rule=40, seed=0))
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = split
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=MERGED_SIZE, initial_alphabet=alphabet, show_progress=False)
    )
    merges = learner.get_vocab(with_added_tokens=False)
    whole = {piece for word in [text, *listed_words()] for piece, _ in split.pre_tokenize_str(word)}
    vocabulary = [*sorted(merges, key=merges.__getitem__), *sorted(whole - set(merges))]
    return _assemble(learner, vocabulary, split)


def listed_words() -> set[str]:
    """Every word of the lists, with a space before it, and capitalised without one as it starts a sentence."""
    lists = [words.NAMES, *words.TIMES.values(), *words.ANTONYM_THEMES]
    for labelled in (words.KINDS, words.USES, words.CITIES):
        lists += [tuple(labelled), *labelled.values()]
    flat = {piece for group in lists for word in group for piece in ([word] if isinstance(word, str) else word)}
    bare = {re.sub(r"^[+~]", "", word) for word in flat}
    return {f" {word}" for word in bare} | {f" {word.capitalize()}" for word in bare}


def _assemble(learner: Tokenizer, vocabulary: list[str], split: pre_tokenizers.ByteLevel) -> PreTrainedTokenizerFast:
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    ids = {piece: number for number, piece in enumerate(vocabulary)}
    # ignore_merges: a whole word of the vocabulary is taken as it is, without merges that would build it up
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, clean_up_tokenization_spaces=False)
