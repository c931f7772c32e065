"""Several processes that harvest into one folder. Each makes the shards of its number; all else they tell by files.

So any of them may die at any moment, and start again in any order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from model import locks
from probes.store import StoreError


@dataclass(frozen=True)
class Ranks:
    """This process among those that torchrun started (its RANK and WORLD_SIZE); alone it is the first of one."""

    rank: int = 0
    world: int = 1

    @classmethod
    def here(cls) -> Ranks:
        return cls(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))

    def owns(self, shard: int) -> bool:
        """Does this process make this shard?"""
        return shard % self.world == self.rank


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock that the system lets go of when the process ends, however it ends.

    Args:
        wait: for another process to let it go; otherwise it is an error that one has it.
    Raises:
        StoreError: another process holds it.
    """
    busy = f"Another process is harvesting into {path.parent.parent} as {path.stem}. Wait for it, or end it first."
    with ExitStack() as held:
        try:
            held.enter_context(locks.locked(path, busy, wait))
        except locks.Busy as error:
            raise StoreError(busy) from error
        yield
