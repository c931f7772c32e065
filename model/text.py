"""Text in and out: prompts to token ids, ids to strings, and the checks that bad input meets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.plain_words import one_line


class TextTools:
    """The tokenizer side of HookedDCFormer. Padding stands on the left and is always told by a mask, never by ids."""

    cfg: Any
    tokenizer: Any

    def to_tokens(self, input: str | Sequence[str] | Tensor, prepend_bos: bool | None = None) -> Tensor:
        """Token ids [batch, pos] of one text, or of several that have the same number of tokens.

        Raises:
            ValueError: the texts differ in length; to_tokens_and_mask pads them and says where.
        """
        tokens, mask = self.to_tokens_and_mask(input, prepend_bos)
        if mask is not None:
            lengths = sorted(set(mask.sum(1).tolist()))
            raise ValueError(
                f"The texts have {lengths[0]} to {lengths[-1]} tokens, and ids alone cannot say which are padding. "
                "Give the texts to the model itself, or use to_tokens_and_mask."
            )
        return tokens

    def to_tokens_and_mask(
        self, input: str | Sequence[str] | Tensor, prepend_bos: bool | None = None, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Token ids [batch, pos] and a bool mask [batch, pos], False on left padding (None: no padding)."""
        device = torch.device(str(self.cfg.device))
        if isinstance(input, Tensor):
            tokens = self._as_batch(input).to(device)
            return tokens, None if attention_mask is None else attention_mask.to(device).bool()
        texts = [input] if isinstance(input, str) else list(input)
        if not texts:
            raise ValueError("An empty list of prompts was given. Give at least one text.")
        if not all(isinstance(text, str) for text in texts):
            kind = type(next(t for t in texts if not isinstance(t, str))).__name__
            raise TypeError(f"Input must be text, texts or a LongTensor of token ids, got a list of {kind}.")
        if attention_mask is not None:
            raise ValueError("An attention_mask belongs to token ids; for texts it is made by the model itself.")
        rows = [self._encode(text, prepend_bos) for text in texts]
        longest = max(map(len, rows))
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            tokens[i, longest - len(row) :] = torch.tensor(row)
            mask[i, longest - len(row) :] = True
        return tokens.to(device), None if mask.all() else mask.to(device)

    def to_string(self, tokens: Tensor | Sequence[int]) -> str | list[str]:
        """The text of token ids: a string for [pos], a list for [batch, pos]."""
        ids = torch.as_tensor(tokens)
        decode = self._need_tokenizer().decode
        if ids.ndim == 2:
            return [decode(row, clean_up_tokenization_spaces=False) for row in ids.tolist()]
        return decode(ids.reshape(-1).tolist(), clean_up_tokenization_spaces=False)

    def to_str_tokens(self, input: str | Tensor, prepend_bos: bool | None = None) -> list[str]:
        """Each token of one prompt as a string; without a tokenizer, each id in angle brackets."""
        tokens = self.to_tokens(input, prepend_bos)
        if tokens.shape[0] != 1:
            raise ValueError(f"to_str_tokens takes one prompt, got {tokens.shape[0]}.")
        if self.tokenizer is None:
            return [f"<{token}>" for token in tokens[0].tolist()]
        return [self.tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in tokens[0].tolist()]

    def to_single_token(self, string: str) -> int:
        """The id of a text that is exactly one token, without BOS."""
        ids = self._encode(string, prepend_bos=False)
        if len(ids) != 1:
            raise ValueError(
                f"{string!r} is {len(ids)} tokens in this vocabulary, not one. Give a single token's text or id."
            )
        return ids[0]

    def check_tokens(self, tokens: Tensor, mask: Tensor | None = None, past: int = 0) -> None:
        """Refuse ids and masks that the model would misread; past = tokens already cached."""
        batch, length = tokens.shape
        if length == 0 or batch == 0:
            raise ValueError("The prompt is empty. Give at least one token.")
        if past + length > self.cfg.n_ctx:
            raise ValueError(
                f"The prompt has {past + length} tokens but the context of this model is {self.cfg.n_ctx}. "
                "Shorten the prompt."
            )
        low, high = (int(end) for end in tokens.aminmax())
        if low < 0 or high >= self.cfg.d_vocab:
            bad = low if low < 0 else high
            raise ValueError(f"Token id {bad} is outside the vocabulary: ids run from 0 to {self.cfg.d_vocab - 1}.")
        if mask is None:
            return
        if mask.shape != (batch, past + length):
            raise ValueError(f"attention_mask has shape {tuple(mask.shape)}, the tokens need {(batch, past + length)}.")
        if bool((mask[:, :-1] & ~mask[:, 1:]).any()):
            raise ValueError("attention_mask has padding to the right of a token. Pad on the left.")
        if not bool(mask.any(1).all()):
            raise ValueError("attention_mask leaves a sequence without any token. Remove that sequence.")

    def _encode(self, text: str, prepend_bos: bool | None) -> list[int]:
        tokenizer = self._need_tokenizer()
        try:
            ids = list(tokenizer.encode(text, add_special_tokens=False))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # the tokenizers library raises bare Exception where a vocabulary lacks its own unknown token, or panics
            raise ValueError(
                f"The tokenizer cannot encode this text ({one_line(error)}). Put the model's own tokenizer there, or "
                "give token ids."
            ) from error
        if self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos:
            if tokenizer.bos_token_id is None:
                raise ValueError("prepend_bos=True was asked for, but this tokenizer has no BOS token.")
            ids = [tokenizer.bos_token_id, *ids]
        if not ids:
            raise ValueError("The prompt is empty. Give at least one token.")
        return ids

    def _need_tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise ValueError(
                "This model has no tokenizer, so it takes token ids only. Give a LongTensor [batch, pos], "
                "or put a tokenizer.json beside its weights."
            )
        return self.tokenizer

    @staticmethod
    def _as_batch(tokens: Tensor) -> Tensor:
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise TypeError(f"Token ids must be whole numbers (LongTensor), got {tokens.dtype}.")
        if tokens.ndim not in (1, 2):
            raise ValueError(f"Token ids must be [pos] or [batch, pos], got shape {tuple(tokens.shape)}.")
        return tokens.long().reshape(1, -1) if tokens.ndim == 1 else tokens.long()
