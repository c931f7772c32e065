"""Composed attention block by block, with a backward pass that computes every block's maps again.

Memory is linear in the number of tokens both ways: what is kept between the passes is the inputs and one
number a query and head (the log of its softmax's divisor); maps exist for one block at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.backends.block_math import BlockGradients
from model.backends.blocks import Block, block_visibility, plan
from model.backends.inputs import Inputs, lengthened


@dataclass(frozen=True)
class Schedule:
    """How one call is cut into blocks, and the two functions that compute one block.

    attend, attend_backward: those of block_math.py, or others that return the same.
    align: None where blocks may have any size. A number where compiled code wants few shapes: queries and keys are
        then padded so that every block has block_queries queries and a multiple of this many keys.
    computed: z [B, T, H, K] and the log of each softmax's divisor [B, T, G, N, 1] where something else has computed
        them already; only the backward pass is then left to do.
    """

    attend: Callable[[Inputs, Tensor], tuple[Tensor, Tensor]]
    attend_backward: Callable[[Inputs, Tensor, Tensor, Tensor], BlockGradients]
    visible_keys: int | None
    query_start: int
    key_mask_BS: Tensor | None
    block_queries: int
    block_batch: int
    align: int | None = None
    computed: tuple[Tensor, Tensor] | None = None

    def blocks(self, inputs: Inputs) -> Iterator[tuple[Block, Tensor]]:
        """Each block with its visibility, bool [batch or 1, query, key]."""
        (batch, queries), keys = inputs.q.shape[:2], inputs.k.shape[1]
        cuts = plan(batch, queries, keys, self.visible_keys, self.query_start, block_queries=self.block_queries,
                    block_batch=self.block_batch, align=self.align or 1)  # fmt: skip
        for cut in cuts:
            yield cut, block_visibility(cut, self.visible_keys, self.query_start, self.key_mask_BS, inputs.q.device)


def attend_blockwise(inputs: Inputs, schedule: Schedule) -> Tensor:
    """Composed attention by a schedule: z [B, T, H, K] in the dtype of the inputs."""
    queries, keys = inputs.q.shape[1], inputs.k.shape[1]
    if schedule.align is not None:
        more_queries = -queries % schedule.block_queries
        needed = max(keys, schedule.query_start + queries + more_queries)
        more_keys = needed + -needed % schedule.align - keys
        inputs = inputs.padded(more_queries, more_keys)
        if schedule.key_mask_BS is not None:
            schedule = replace(schedule, key_mask_BS=lengthened(schedule.key_mask_BS, 1, more_keys))
        if schedule.computed is not None:
            z, log_divisor = (lengthened(part, 1, more_queries) for part in schedule.computed)
            schedule = replace(schedule, computed=(z, log_divisor))
    return _Blockwise.apply(schedule, *inputs.flat())[:, :queries]


class _Blockwise(torch.autograd.Function):
    """(schedule, the tensors of Inputs one by one) -> z [B, T, H, K]. Its gradient has no gradient of its own."""

    @staticmethod
    def forward(ctx: Any, schedule: Schedule, *flat: Tensor | None) -> Tensor:  # type: ignore[override]
        inputs = Inputs.from_flat(flat).map(Tensor.detach)
        z, log_divisor = schedule.computed or _attend_blocks(inputs, schedule)
        ctx.schedule = replace(schedule, computed=None)
        ctx.save_for_backward(log_divisor, *flat)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, z_grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        schedule: Schedule = ctx.schedule
        log_divisor, *flat = ctx.saved_tensors
        inputs, z_grad = Inputs.from_flat(flat).map(Tensor.detach), z_grad.contiguous()
        total = inputs.map(lambda part: torch.zeros_like(part, memory_format=torch.contiguous_format))
        for cut, seen in schedule.blocks(inputs):
            rows = cut.batch, cut.queries
            block, into = inputs.block(cut), total.block(cut)
            gradients = schedule.attend_backward(block, seen, log_divisor[rows], z_grad[rows])
            into.q.copy_(gradients.q)
            into.pre.add_(gradients.pre)
            into.post.add_(gradients.post)
            _add_products(into.k, gradients.scores, block.q)
            _add_products(into.v, gradients.pattern, z_grad[rows])
        return None, *total.flat()


def _attend_blocks(inputs: Inputs, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """z [B, T, H, K] and the log of each softmax's divisor [B, T, G, N, 1], block by block."""
    B, T, H, _ = inputs.q.shape
    z = torch.empty_like(inputs.q)
    log_divisor = z.new_empty(B, T, inputs.groups, H // inputs.groups, 1)
    for cut, seen in schedule.blocks(inputs):
        rows = cut.batch, cut.queries
        z[rows], log_divisor[rows] = schedule.attend(inputs.block(cut), seen)
    return z, log_divisor


def _add_products(into_BSHK: Tensor, maps_BHTS: Tensor, rows_BTHK: Tensor) -> None:
    """Add maps^T rows of every head in place."""
    if maps_BHTS.shape[0] > 1:
        into_BSHK += (maps_BHTS.mT @ rows_BTHK.transpose(1, 2)).transpose(1, 2)
    else:  # one sequence has few queries and many keys: a temporary product would cost another pass over the keys
        into_BSHK[0].transpose(0, 1).baddbmm_(maps_BHTS[0].mT, rows_BTHK[0].transpose(0, 1))
