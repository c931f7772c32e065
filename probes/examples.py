"""What a measure is taken over: token sequences, and which of their tokens' predictions count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model import HookedDCFormer
from probes.tasks.foils import foil_of
from probes.tasks.rows import TaskRow, answer_token_mask


@dataclass(frozen=True)
class Example:
    """One sequence.

    ids: its tokens, a BOS included where the model expects one. targets: positions of the tokens whose prediction
    (from the position before) counts, in order. answers: the number of the answer that each target belongs to.
    contrasts: for each target a token id that might have stood there instead, or None.
    """

    ids: tuple[int, ...]
    targets: tuple[int, ...]
    answers: tuple[int, ...]
    contrasts: tuple[int | None, ...]


def text_examples(model: HookedDCFormer, prompts: Sequence[str] | Tensor) -> list[Example]:
    """Every token but the first of each prompt counts, each as an answer of its own.

    Args:
        prompts: texts, or ids [batch, pos].
    Raises:
        ValueError: no prompts, one of fewer than 2 tokens, or longer than the model's context.
    """
    if not len(prompts):
        raise ValueError("No prompts were given. Give at least one.")
    found = []
    for number, prompt in enumerate(prompts):
        tokens = model.to_tokens(prompt)[0]
        model.check_tokens(tokens[None])
        if len(tokens) < 2:
            raise ValueError(f"Prompt {number} has 1 token, and a prediction needs 2. Give a longer prompt.")
        targets = tuple(range(1, len(tokens)))
        found.append(Example(tuple(tokens.tolist()), targets, targets, (None,) * len(targets)))
    return found


def task_examples(model: HookedDCFormer, rows: Sequence[TaskRow]) -> list[Example]:
    """The tokens of the bracketed answers count; the contrast of an answer's first token is another candidate's.

    The contrast is the first other candidate on the line whose first token differs from the answer's.

    Raises:
        ValueError: no rows, a model without a tokenizer, or a row longer than its context.
    """
    if not rows:
        raise ValueError("No task rows were given. Give at least one.")
    return [_task_example(model, row) for row in rows]


def _task_example(model: HookedDCFormer, row: TaskRow) -> Example:
    start = model.to_tokens(row.plain_text)[0].tolist()  # raises what there is to raise, and knows of a BOS
    model.check_tokens(torch.tensor([start]))
    _, owners = answer_token_mask(row, model.tokenizer)
    owners = [-1] * (len(start) - len(owners)) + owners
    targets = [place for place, owner in enumerate(owners) if owner >= 0]
    contrasts: list[int | None] = []
    for place in targets:
        first = owners[place] != owners[place - 1]
        others = row.answers[owners[place]].candidates
        foil = foil_of(model.tokenizer, start[place], others) if first else None
        contrasts.append(None if foil is None else foil.token)
    return Example(tuple(start), tuple(targets), tuple(owners[place] for place in targets), tuple(contrasts))


@dataclass(frozen=True)
class ExampleBatch:
    """Some examples, padded on the left to one length.

    tokens: [batch, pos]. mask: bool [batch, pos], None = no padding. numbers: each example's place in the whole list.
    rows, places: [n], the row and the position from which each counted token is predicted. targets, answers,
    contrasts: [n], its id, the number of its answer within the example, and the contrast's id (-1: none).
    """

    tokens: Tensor
    mask: Tensor | None
    numbers: tuple[int, ...]
    rows: Tensor
    places: Tensor
    targets: Tensor
    answers: Tensor
    contrasts: Tensor

    def repeated(self, copies: int) -> tuple[Tensor, Tensor | None]:
        """tokens and mask, the whole batch several times over."""
        return self.tokens.repeat(copies, 1), None if self.mask is None else self.mask.repeat(copies, 1)


def batches(
    examples: Sequence[Example], size: int, device: torch.device | str, *, equal_length: bool = False
) -> Iterator[ExampleBatch]:
    """The examples in batches, those of like length together; with equal_length none is padded."""
    order = sorted(range(len(examples)), key=lambda number: len(examples[number].ids))
    start = 0
    while start < len(order):
        stop = min(start + size, len(order))
        if equal_length:
            length = len(examples[order[start]].ids)
            stop = next((i for i in range(start, stop) if len(examples[order[i]].ids) != length), stop)
        yield _batch(examples, order[start:stop], torch.device(device))
        start = stop


def _batch(examples: Sequence[Example], numbers: Sequence[int], device: torch.device) -> ExampleBatch:
    chosen = [examples[number] for number in numbers]
    longest = max(len(example.ids) for example in chosen)
    pads = [longest - len(example.ids) for example in chosen]
    tokens = torch.tensor([[0] * pad + list(example.ids) for pad, example in zip(pads, chosen, strict=True)])
    mask = torch.arange(longest)[None] >= torch.tensor(pads)[:, None]
    counted = [
        (row, pad + place - 1, example.ids[place], answer, -1 if contrast is None else contrast)
        for row, (pad, example) in enumerate(zip(pads, chosen, strict=True))
        for place, answer, contrast in zip(example.targets, example.answers, example.contrasts, strict=True)
    ]
    columns = [torch.tensor(column, device=device) for column in zip(*counted, strict=True)]
    return ExampleBatch(tokens.to(device), None if bool(mask.all()) else mask.to(device), tuple(numbers), *columns)  # type: ignore[call-arg]
