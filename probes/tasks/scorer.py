"""How many answers of the in-context tasks a model gets right: our convention, see `score`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from model import Engine, HookedDCFormer
from probes.tasks.rows import TaskRow, answer_token_mask
from probes.tasks.rules import FAMILIES

COLUMNS = ("answers", "exact_match", "chance", "token_accuracy", "nats_per_token")


@dataclass(frozen=True)
class AnswerScore:
    """One answer: its tokens, how many of them were the argmax, the sum of their losses in nats, and 1 / candidates."""

    row: int
    task_id: int
    family: str
    text: str
    tokens: int
    tokens_right: int
    nats: float
    chance: float

    @property
    def right(self) -> bool:
        return self.tokens_right == self.tokens


@dataclass(frozen=True)
class TaskScores:
    """The scores of all answers, in the order of the rows."""

    answers: list[AnswerScore]

    def table(self, rules: bool = False) -> pd.DataFrame:
        """A row for each family, with rules=True for each rule ("task 12") too, and "overall".

        Columns: answers (how many), exact_match and chance (share of answers), token_accuracy (share of answer
        tokens), nats_per_token (mean negative log-likelihood of an answer token).
        """
        each = pd.DataFrame([asdict(answer) | {"right": answer.right} for answer in self.answers])
        groups = {family: each[each.family == family] for family in FAMILIES}
        if rules:
            groups |= {f"task {task_id}": each[each.task_id == task_id] for task_id in sorted(each.task_id.unique())}
        groups["overall"] = each
        return pd.DataFrame({name: _means(group) for name, group in groups.items() if len(group)}).T.astype(
            {"answers": int}
        )

    def markdown(self, rules: bool = False) -> str:
        """The table as a Markdown table; shares with 3 digits."""
        lines = ["| | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
        for name, row in self.table(rules).iterrows():
            numbers = " | ".join(f"{row[column]:.3f}" for column in COLUMNS[1:])
            lines.append(f"| {name} | {int(row['answers'])} | {numbers} |")
        return "\n".join(lines)


def _means(group: pd.DataFrame) -> dict[str, float]:
    return {
        "answers": len(group),
        "exact_match": group.right.mean(),
        "chance": group.chance.mean(),
        "token_accuracy": group.tokens_right.sum() / group.tokens.sum(),
        "nats_per_token": group.nats.sum() / group.tokens.sum(),
    }


def score(source: HookedDCFormer | Engine, rows: Sequence[TaskRow], batch_size: int = 8) -> TaskScores:
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
        losses, right = _answer_tokens(engine, encoded[start : start + batch_size])
        for number, (losses_T, right_T) in enumerate(zip(losses, right), start):
            found += _answers_of(rows[number], number, encoded[number][1], losses_T, right_T)
    return TaskScores(found)


def _encoded(engine: Engine, row: TaskRow, number: int) -> tuple[list[int], list[int]]:
    """Ids and answer numbers of a row, a BOS in front where the model expects one."""
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
    return ids, owners


def _answer_tokens(engine: Engine, batch: Sequence[tuple[list[int], list[int]]]) -> tuple[list[Tensor], list[Tensor]]:
    """For each row: the losses in nats and the hits of its answer tokens, in the order of the text."""
    longest = max(len(ids) for ids, _ in batch)
    padded = [[0] * (longest - len(ids)) + ids for ids, _ in batch]
    owners_BT = torch.tensor([[-1] * (longest - len(owners)) + owners for _, owners in batch])
    tokens_BT = torch.tensor(padded, device=torch.device(str(engine.cfg.device)))
    mask_BT = torch.tensor([[i >= longest - len(ids) for i in range(longest)] for ids, _ in batch]).to(tokens_BT.device)
    resid_BTD = engine.residual(tokens_BT, None if bool(mask_BT.all()) else mask_BT)
    rows, places = (owners_BT[:, 1:] >= 0).nonzero(as_tuple=True)
    # only the positions before an answer token are unembedded: a large vocabulary would fill the memory
    logits = engine.unembed(resid_BTD[rows.to(resid_BTD.device), places.to(resid_BTD.device)])
    logits = logits if logits.dtype == torch.float64 else logits.float()
    targets = tokens_BT[rows.to(tokens_BT.device), places.to(tokens_BT.device) + 1].to(logits.device)
    losses, right = F.cross_entropy(logits, targets, reduction="none").cpu(), (logits.argmax(-1) == targets).cpu()
    counts = torch.bincount(rows, minlength=len(batch)).tolist()
    return list(losses.split(counts)), list(right.split(counts))


def _answers_of(row: TaskRow, number: int, owners: list[int], losses: Tensor, right: Tensor) -> list[AnswerScore]:
    owner = torch.tensor([answer for answer in owners if answer >= 0])
    return [
        AnswerScore(
            number, row.task_id, row.family, answer.text, int((owner == i).sum()), int(right[owner == i].sum()),
            float(losses[owner == i].double().sum()), 1 / max(1, len(answer.candidates)),
        )
        for i, answer in enumerate(row.answers)
    ]  # fmt: skip
