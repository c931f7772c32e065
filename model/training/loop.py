"""train: a run from its first step, or from where it was stopped, to its last."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.backends import using_backend
from model.checkpoints.tokenizer_files import puts_bos_first
from model.config import DCFormerConfig
from model.training.config import TrainConfig, model_config
from model.training.data import Given, TokenSource, batch, open_source
from model.training.distributed import Ranks, joined
from model.training.evaluation import Evaluation
from model.training.fields import named_function
from model.training.metrics import Metrics
from model.training.recipe import log_spaced_steps
from model.training.saving import FINAL, STATE, claim_folder, keep_model, kept_path, load_state, only_one, save_state
from model.training.step import NotFiniteError, Trainer, make_trainer, train_step
from model.training.tokenizers import open_tokenizer
from model.transformer import HookedDCFormer

BACKEND_OF = {"auto": "auto", True: "compiled", False: "eager"}


@dataclass(frozen=True)
class Outcome:
    """How a call of train ended.

    step: updates done in all; finished: was that the last; model: the directory of the finished model, or None.
    """

    step: int
    finished: bool
    model: Path | None


def train(config: TrainConfig) -> Outcome:
    """Train one run; called again with the same folder, it goes on where it was stopped.

    SIGTERM and Ctrl-C end it after the step that is being done, with everything written. The random numbers of
    Python and PyTorch are seeded anew.

    Raises:
        ValueError: the configuration, its data or its folder cannot be used, or the loss or gradient is not finite
            (the last state is kept).
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    backend = using_backend(BACKEND_OF[config.compile])
    with joined(config.parallel, config.device) as ranks, stop_signals() as stop, backend:
        return Loop(config, ranks, stop).run()


class Loop:
    """One run in one process."""

    def __init__(self, config: TrainConfig, ranks: Ranks, stop: StopRequest):
        self.config, self.ranks, self.stop, self.out = config, ranks, stop, Path(config.out)
        self.own_rows = ranks.share(config.rows, "rows of a step")
        if len(self.own_rows) % config.accumulate:
            parts = f"accumulate={config.accumulate} equal parts"
            raise ValueError(f"The {len(self.own_rows)} rows of each process cannot be taken in {parts}.")
        self.tokenizer, self.source, self.evaluation = self._in_turn(ranks)
        self.cfg = self._model_config()
        model = HookedDCFormer(self.cfg, tokenizer=self.tokenizer, seed=config.seed)
        if config.start is not None:
            named_function(config.start, "start")(model, config.seed)
        self.trainer: Trainer = make_trainer(model, config, ranks)
        self.kept = set(log_spaced_steps(config.kept_checkpoints, config.steps))

    def run(self) -> Outcome:
        """From the last state to the end.

        Raises:
            ValueError: another process trains into the folder, or what it holds cannot be used. OSError: something
                cannot be written; the sentence says what is kept.
        """
        with only_one(self.out) if self.ranks.first else nullcontext():
            return self._run()

    def _run(self) -> Outcome:
        trainer, config = self.trainer, self.config
        if self.ranks.first:
            claim_folder(self.out, config)
        self.ranks.wait()
        # rows draw from chance of their own; this is for a user's evaluator, and a resumed run puts it back
        random.seed(config.seed)
        torch.manual_seed(config.seed)
        done = saved = load_state(self.out, trainer.model, trainer.optimizer, trainer.scheduler)
        with metrics_of_first(self, done) as metrics:
            while done < config.steps and not self._stop_asked():
                self._update(done, saved, metrics)
                done += 1
                if done in self.kept:
                    self._keep(kept_path(self.out, done))
                if done % config.save_every == 0 or done == config.steps:
                    saved = self._save(done)
        if done < config.steps:
            if saved != done:
                self._save(done)
            return Outcome(done, False, None)
        self._keep(self.out / FINAL)
        return Outcome(done, True, self.out / FINAL)

    def _update(self, done: int, saved: int, metrics: Metrics | None) -> None:
        """The update after `done` of them, with its metrics and evaluation."""
        config, began = self.config, time.perf_counter()
        rate = self.trainer.optimizer.param_groups[0]["lr"]
        tokens, weights = batch(self.source, config.seed, done, self.own_rows, config.rows)
        try:
            update = train_step(self.trainer, tokens, weights, config.accumulate)
        except NotFiniteError as error:
            raise ValueError(f"{error} at step {done + 1} of {config.name}. {self._advice(saved)}") from error
        speed = tokens.shape[1] * config.rows / (time.perf_counter() - began)
        step = done + 1
        numbers: dict[str, float] = {}
        if step % config.log_every == 0 or step == config.steps:
            numbers = {"loss": update.loss, "learning_rate": rate, "gradient_norm": update.gradient_norm,
                       "tokens_per_second": speed}  # fmt: skip
        if step % config.evaluate_every == 0 or step == config.steps:
            numbers |= self.evaluation(self.trainer)
        if metrics is not None:
            metrics.advance(update.loss, speed)
            if numbers:
                metrics.write(step, numbers)

    def _advice(self, saved: int) -> str:
        kept = f"The state of step {saved} is kept in {self.out / STATE}" if saved else "No state had been saved yet"
        return f"{kept}. Lower learning_rate, or lengthen warm_up, in a new folder; bad data gives this too."

    def _save(self, done: int) -> int:
        trainer = self.trainer
        save_state(self.out, trainer.model, trainer.optimizer, trainer.scheduler, done, self.ranks.first)
        self.ranks.wait()
        return done

    def _keep(self, target: Path) -> None:
        keep_model(target, self.trainer.model, self.cfg, self.tokenizer, self.ranks.first)

    def _stop_asked(self) -> bool:
        """Was any process asked to stop? All must agree, or some would wait for the others for ever."""
        asked = torch.tensor(float(self.stop.asked), device=self.ranks.device)
        return bool(self.ranks.summed(asked) > 0)

    def _in_turn(self, ranks: Ranks) -> tuple[Any | None, TokenSource, Evaluation]:
        """Tokenizer and data: the first process makes the files, the others then find them."""
        if not ranks.first:
            ranks.wait()
        cache = Path(self.config.cache)
        tokenizer = open_tokenizer(self.config.tokenizer, cache)
        model_config(self.config, tokenizer)  # refuses what does not fit before a long corpus is tokenised
        given = Given(tokenizer, self.config.length, cache, ranks.first)
        opened = tokenizer, open_source(self.config.data, given), Evaluation(self.config, given)
        if ranks.first:
            ranks.wait()
        return opened

    def _model_config(self) -> DCFormerConfig:
        cfg = model_config(self.config, self.tokenizer)
        # made on the CPU, so that a seed gives the same weights wherever it is trained
        return cfg.replace(default_prepend_bos=puts_bos_first(self.tokenizer), dtype=torch.float32, device="cpu")


@contextmanager
def metrics_of_first(loop: Loop, done: int) -> Iterator[Metrics | None]:
    """Metrics in the process that writes, None in the others."""
    if not loop.ranks.first:
        yield None
        return
    with Metrics(loop.out, done, loop.config.steps, loop.config.name) as metrics:
        yield metrics


class StopRequest:
    """Has somebody asked this process to stop?"""

    def __init__(self) -> None:
        self.asked = False


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """SIGTERM and Ctrl-C become a request; a second one works as before."""
    request = StopRequest()
    before: dict[int, Any] = {}

    def ask(number: int, frame: object) -> None:
        request.asked = True
        signal.signal(number, before[number])

    # Python hands signals to the main thread alone; elsewhere nobody can ask
    if threading.current_thread() is threading.main_thread():
        before = {int(number): signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
