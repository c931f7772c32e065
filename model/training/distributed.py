"""Several processes, started by torchrun, that train one model: replicated (DDP) or sharded (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from model.checkpoints.load import pick_device
from model.transformer import HookedDCFormer


@dataclass(frozen=True)
class Ranks:
    """The processes that train together, seen from one of them; a process on its own is the first of one."""

    device: torch.device
    rank: int = 0
    world: int = 1
    kind: str = "single"
    """"single", "ddp" or "fsdp"."""

    @property
    def first(self) -> bool:
        """Is this the process that writes?"""
        return self.rank == 0

    def share(self, rows: int, what: str) -> range:
        """This process's part of the rows of a step."""
        if rows % self.world:
            raise ValueError(f"{what}={rows} cannot be shared equally by {self.world} processes. Take a multiple.")
        each = rows // self.world
        return range(self.rank * each, (self.rank + 1) * each)

    def summed(self, value: Tensor) -> Tensor:
        """The sum over all processes, the same to the last bit in each."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def wait(self) -> None:
        """Until every process has come here."""
        if self.world > 1:
            dist.barrier()

    def wrapped(self, model: HookedDCFormer) -> nn.Module:
        """The module whose forward trains the model; under FSDP the model itself, whose parameters are now sharded."""
        if self.kind == "ddp":
            devices = [self.device] if self.device.type == "cuda" else None
            return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
        if self.kind == "fsdp":
            mesh = init_device_mesh(self.device.type, (self.world,))
            for block in model.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(model, mesh=mesh)
        return model

    def gradients(self, wrapped: nn.Module, exchange: bool) -> AbstractContextManager[object]:
        """Around a backward pass: gradients are averaged over the processes only in the last part of a step."""
        if isinstance(wrapped, DistributedDataParallel) and not exchange:
            return wrapped.no_sync()
        if isinstance(wrapped, FSDPModule):
            wrapped.set_requires_gradient_sync(exchange)
        return nullcontext()


@contextmanager
def joined(parallel: str, device: str) -> Iterator[Ranks]:
    """The processes that torchrun started, until the block ends; without torchrun this process alone.

    Args:
        parallel: "auto", "ddp" or "fsdp"; a single process shares with nobody, whatever it says.
        device: "auto", "cpu" or "cuda"; with CUDA each process of a machine takes the GPU of its local rank.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    chosen = pick_device(device)
    if world == 1:
        yield Ranks(chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Ranks(chosen, dist.get_rank(), world, "fsdp" if parallel == "fsdp" else "ddp")
    finally:
        dist.destroy_process_group()
