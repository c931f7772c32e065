"""How many answers of the in-context tasks a model gets right: our convention, see `score`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model import Engine, HookedDCFormer
from probes.tasks.foils import Foil, foil_of
from probes.tasks.rows import TaskRow, answer_token_mask
from probes.tasks.scores import AnswerScore, TaskScores


def score(
    source: HookedDCFormer | Engine,
    rows: Sequence[TaskRow],
    batch_size: int = 8,
    watch: Callable[[int, int], None] | None = None,
) -> TaskScores:
    """Score every bracketed answer.

    The brackets are removed and the whole text goes through the model once, so later lines see the right answers of
    earlier ones. An answer counts as right when each of its tokens is the argmax, predicted from the position before.
    Published accuracies come without a definition of this detail: the convention is ours.

    The chance level is the mean of 1 / (number of candidates): the persons on the line for a "who" question, else the
    kinds, countries, uses, opposites or times (or the words themselves) that belong to the line's words, each once;
    where a word is not in our lists, the distinct words of the line. A model that has not grasped even which sort of
    word is asked for stands below it.

    Args:
        source: a model (hooks do not run here) or an engine. It needs a tokenizer.
        batch_size: rows that run at once, padded on the left.
        watch: called with (done, all) rows after each batch; what it raises ends the scoring.
    Raises:
        ValueError: no rows, or a row longer than the model's context.
    """
    if not rows:
        raise ValueError("No task rows were given. Give at least one.")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; at least 1 is needed.")
    engine = Engine(source) if isinstance(source, HookedDCFormer) else source
    encoded = [_encoded(engine, row, number) for number, row in enumerate(rows)]
    found: list[AnswerScore] = []
    for start in range(0, len(rows), batch_size):
        read = _answer_tokens(engine, encoded[start : start + batch_size])
        for number, tokens in enumerate(read, start):
            found += _answers_of(rows[number], number, encoded[number], tokens, engine.model.tokenizer)
        if watch is not None:
            watch(min(start + batch_size, len(rows)), len(rows))
    return TaskScores(found)


class _Encoded(NamedTuple):
    """ids of a row's tokens; owners: for each the number of its answer, -1 = none; foils: one for each answer."""

    ids: list[int]
    owners: list[int]
    foils: list[Foil | None]


class _Read(NamedTuple):
    """Of the answer tokens of a row, in the order of the text, [n]: their log-probabilities in nats, the first choices,
    whether these are right, and the log-probabilities of the foils (nan but at the first token of an answer)."""

    log_probs: Tensor
    choices: Tensor
    right: Tensor
    foil_log_probs: Tensor


def _encoded(engine: Engine, row: TaskRow, number: int) -> _Encoded:
    """A row as the model reads it, a BOS in front where the model expects one."""
    tokenizer, cfg = engine.model.tokenizer, engine.cfg
    if tokenizer is None:
        raise ValueError(
            "This model has no tokenizer, and task rows are texts. Put a tokenizer.json beside its weights."
        )
    ids, owners = answer_token_mask(row, tokenizer)
    if cfg.default_prepend_bos:
        ids, owners = [tokenizer.bos_token_id, *ids], [-1, *owners]
    if len(ids) > cfg.n_ctx:
        raise ValueError(
            f"Row {number} (task{row.task_id}) has {len(ids)} tokens but the context of this model is {cfg.n_ctx}. "
            "Leave the row out, or take a model with a longer context."
        )
    firsts = [ids[owners.index(answer)] for answer in range(len(row.answers))]
    foils = [foil_of(tokenizer, first, answer.candidates) for first, answer in zip(firsts, row.answers, strict=True)]
    return _Encoded(ids, owners, foils)


def _foil_tokens(row: _Encoded) -> list[int]:
    """For each answer token, at the first token of an answer, the foil's first token; else -1."""
    found, before = [], -1
    for owner in row.owners:
        foil = row.foils[owner] if owner >= 0 and owner != before else None
        found += [] if owner < 0 else [-1 if foil is None else foil.token]
        before = owner
    return found


def _answer_tokens(engine: Engine, batch: Sequence[_Encoded]) -> list[_Read]:
    """What the model says at the answer tokens of each row."""
    longest = max(len(row.ids) for row in batch)
    pads = [longest - len(row.ids) for row in batch]
    owners_BT = torch.tensor([[-1] * pad + row.owners for pad, row in zip(pads, batch, strict=True)])
    device = torch.device(str(engine.cfg.device))
    tokens_BT = torch.tensor([[0] * pad + row.ids for pad, row in zip(pads, batch, strict=True)], device=device)
    mask_BT = torch.tensor([[i >= pad for i in range(longest)] for pad in pads], device=device)
    resid_BTD = engine.residual(tokens_BT, None if bool(mask_BT.all()) else mask_BT)
    rows, places = (owners_BT[:, 1:] >= 0).nonzero(as_tuple=True)
    # only the positions before an answer token are unembedded: a large vocabulary would fill the memory
    logits = engine.unembed(resid_BTD[rows.to(resid_BTD.device), places.to(resid_BTD.device)])
    targets = tokens_BT.cpu()[rows, places + 1]
    foils = torch.tensor([token for row in batch for token in _foil_tokens(row)])
    counts = torch.bincount(rows, minlength=len(batch)).tolist()
    return [
        _Read(*parts) for parts in zip(*(part.split(counts) for part in _read(logits, targets, foils)), strict=True)
    ]


def _read(logits: Tensor, targets: Tensor, foils: Tensor) -> _Read:
    log_probs = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
    choices = log_probs.argmax(-1).cpu()
    own, other = (
        log_probs.gather(1, ids.clamp(min=0)[:, None].to(logits.device))[:, 0].cpu() for ids in (targets, foils)
    )
    return _Read(own, choices, choices == targets, other.masked_fill(foils < 0, torch.nan))


def _answers_of(row: TaskRow, number: int, encoded: _Encoded, read: _Read, tokenizer: Any) -> list[AnswerScore]:
    owner, found = torch.tensor([answer for answer in encoded.owners if answer >= 0]), []
    for place, answer in enumerate(row.answers):
        own = _Read(*(part[owner == place] for part in read))
        foil = encoded.foils[place]
        found.append(
            AnswerScore(
                number, answer.line, row.task_id, row.family, answer.text, len(own.right), int(own.right.sum()),
                -float(own.log_probs.double().sum()), 1 / max(1, len(answer.candidates)),
                tokenizer.decode(own.choices.tolist()).strip(), "" if foil is None else foil.text,
                float(own.log_probs[0].exp()), float(own.foil_log_probs[0].exp()),
            )
        )  # fmt: skip
    return found
