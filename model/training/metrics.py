"""What a run tells about itself while it trains: metrics.jsonl, TensorBoard and a progress bar."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from model.whole_files import read_json_lines, write_whole

METRICS, BOARD = "metrics.jsonl", "tensorboard"


class Metrics:
    """Lines of numbers, each with its step.

    Args:
        out: folder of the run.
        done: steps done before; lines of later steps, which a stopped run lost, are removed.
        steps: of the whole run.
        name: stands before the progress bar.
    """

    def __init__(self, out: Path, done: int, steps: int, name: str):
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / METRICS
        _keep_until(self.path, done)
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as this object)
        self.board = SummaryWriter(str(out / BOARD), purge_step=done + 1)
        # a log file gets a line now and then, a terminal a moving bar
        often = 0.2 if sys.stderr.isatty() else 30.0
        self.bar = tqdm(total=steps, initial=done, desc=name, unit="step", mininterval=often, dynamic_ncols=True)

    def __enter__(self) -> Metrics:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        self.board.close()
        self.file.close()

    def advance(self, loss: float, tokens_per_second: float) -> None:
        """One step done: move the bar."""
        self.bar.set_postfix_str(f"loss {loss:.4f} nats, {tokens_per_second:,.0f} tokens/s", refresh=False)
        self.bar.update()

    def write(self, step: int, numbers: dict[str, float]) -> None:
        """One line, on disk before this returns."""
        self.file.write(json.dumps({"step": step} | numbers) + "\n")
        self.file.flush()
        for name, value in numbers.items():
            self.board.add_scalar(name, value, step)


def read_metrics(out: str | Path) -> list[dict[str, float]]:
    """The lines of a run; a last line that was cut off while it was written is left out."""
    return read_json_lines(Path(out) / METRICS)


def _keep_until(path: Path, done: int) -> None:
    kept = [json.dumps(line) + "\n" for line in read_metrics(path.parent) if line["step"] <= done]
    write_whole(path, lambda file: file.write("".join(kept).encode()))
