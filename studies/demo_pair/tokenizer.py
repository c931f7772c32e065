"""The demo tokenizer: byte-level BPE in which every word of the corpus, with its leading space, is one token."""

from __future__ import annotations

import json

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from studies.demo_pair import words
from studies.demo_pair.data import all_text

END = "<|endoftext|>"
MERGED_SIZE = 700
"""Entries that BPE itself finds, 256 bytes included; the words of the lists come on top."""


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Learn merges from the generated text, then add the words; no text is unknown and decoding gives it back."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = all_text(seed, lines=400)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = split
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=MERGED_SIZE, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator([text], trainer)
    merges = learner.get_vocab(with_added_tokens=False)
    whole = {piece for piece, _ in split.pre_tokenize_str(text)} | spaced_words(split) | set(words.STARTS)
    vocabulary = [*sorted(merges, key=merges.__getitem__), *sorted(whole - set(merges))]
    return _assemble(learner, vocabulary, split)


def spaced_words(split: pre_tokenizers.ByteLevel) -> set[str]:
    """Every word of the lists as the pre-tokenizer writes it, its leading space included."""
    lists = [
        words.NAMES, words.THINGS, words.CITIES, words.CITIES.values(), words.SKILLS, words.OPPOSITES, words.COMMON,
        words.PLACES, words.COLOURS, words.VERBS, *words.SEQUENCES,
    ]  # fmt: skip
    return {piece for some in lists for word in some for piece, _ in split.pre_tokenize_str(f" {word}")}


def _assemble(learner: Tokenizer, vocabulary: list[str], split: pre_tokenizers.ByteLevel) -> PreTrainedTokenizerFast:
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    ids = {piece: number for number, piece in enumerate(vocabulary)}
    # ignore_merges: a whole word of the vocabulary is taken as it is, without merges that would build it up
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, clean_up_tokenization_spaces=False)
