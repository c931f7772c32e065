"""TrainConfig: everything that decides what is trained, checked once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_type_hints

from model.config import DCFormerConfig
from model.plain_words import quoted
from model.training.fields import refuse_unknown, typed

EVALUATION_SEED = 1_000_003
"""Seed of the held-out rows: the same for every run, and never a training seed."""

PAPER_RATES = {"dcformer-405m": 3e-4, "dcformer-834m": 2.5e-4, "dcformer-1.4b": 2e-4, "dcformer-2.8b": 3.2e-4}

MAY_CHANGE = ("device", "compile", "threads", "parallel", "accumulate", "evaluate_every", "save_every", "log_every",
              "evaluator", "out", "cache")  # fmt: skip
"""Fields that a resumed run may give otherwise: they do not change what is learned, up to rounding."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "dtype": ("auto", "bfloat16", "float32"),
    "compile": ("auto", True, False),
    "parallel": ("auto", "ddp", "fsdp"),
}


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Two values that contradict each other raise a ValueError that names both.

    What is trained:
        model: a preset's name ("dcformer-405m"), or the fields of DCFormerConfig with `preset` or `architecture`
            ("llama", "neox", "original") among them. d_vocab may be left to the tokenizer, n_ctx to `length`.
        compose: overrides the model's composition: false trains the plain model of the same sizes.
        seed: of the initial weights, the data, and the random numbers that an evaluator may draw.
        start: "module:function", called with the model and the seed; it changes the initial weights in place.

    Data (see model/training/data.py):
        data: the source of training rows: {text: files}, {generator: module:function} or {mixture: [...]}.
        tokenizer: a folder or tokenizer.json, "module:function" (called without arguments), or
            {files: ..., vocab_size: N}, which trains a byte-level BPE on those files. None where a generator
            makes token ids by itself.
        length: tokens in a row, at most the model's context.
        rows_per_step: rows of one update, over all processes together.
        tokens_per_step: the same in tokens, a multiple of length; give one of the two.
        cache: folder of tokenised files and trained tokenizers, shared by runs.

    Recipe (the defaults are the paper's):
        steps: updates of the whole run; the learning rate's schedule ends there.
        learning_rate: the peak; None takes the paper's for its DCFormer sizes.
        mixing_rate: factor on the learning rate of the head mixing parameters (`.mix_*` and static_blocks).
        warm_up: share of the steps over which the rate rises linearly.
        final_rate: the rate of the last step, as a share of the peak; a cosine leads there.
        weight_decay: on matrices (and larger arrays) alone; norms and biases have none.
        clip: largest norm of the gradient of all parameters together.

    Where and how:
        device: "auto", "cpu" or "cuda".
        dtype: "bfloat16" computes under autocast, "float32" does not; "auto" is bfloat16 on CUDA, else float32.
            Weights and optimizer are float32 in any case.
        compile: "auto" lets the attention choose its backend by size; true takes the compiled one, false none.
        accumulate: parts in which each process takes its rows of a step, one after the other, to save memory.
        parallel: how several processes share the work: "ddp" (replicated; also "auto") or "fsdp" (sharded).
        threads: CPU threads of each process; None leaves PyTorch's choice.

    What is written:
        out: folder of the run.
        evaluation: a source of held-out rows, or None.
        evaluation_rows: how many of its rows are evaluated.
        evaluator: "module:function", called with the model at every evaluation; returns a dict of numbers.
        evaluate_every: steps between evaluations; the last step is always evaluated.
        kept_checkpoints: how many models are kept for good, at log-spaced steps from 1 to `steps`; of a run of
            fewer steps, the model of every step.
        save_every: steps between writes of the one state from which a stopped run goes on.
        log_every: steps between lines of metrics.jsonl.
        name: what the run is called in messages.
    """

    model: str | dict
    data: dict
    steps: int
    length: int
    rows_per_step: int | None = None
    tokens_per_step: int | None = None
    compose: bool | None = None
    seed: int = 0
    start: str | None = None
    tokenizer: str | dict | None = None
    cache: str = "runs/cache"
    learning_rate: float | None = None
    mixing_rate: float = 1.0
    warm_up: float = 0.01
    final_rate: float = 0.1
    weight_decay: float = 0.1
    clip: float = 1.0
    device: str = "auto"
    dtype: str = "auto"
    compile: bool | str = "auto"
    accumulate: int = 1
    parallel: str = "auto"
    threads: int | None = None
    out: str = "runs/train"
    evaluation: dict | None = None
    evaluation_rows: int = 32
    evaluator: str | None = None
    evaluate_every: int = 500
    kept_checkpoints: int = 20
    save_every: int = 200
    log_every: int = 1
    name: str = "run"

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            object.__setattr__(self, name, typed(name, getattr(self, name), hint))
        self._check_ranges()
        self._check_rows()
        if self.seed == EVALUATION_SEED:
            raise ValueError(f"seed={self.seed} is the seed of the held-out rows. Take any other.")
        preset = self.model if isinstance(self.model, str) else self.model.get("preset")
        if self.learning_rate is None and preset not in PAPER_RATES:
            raise ValueError(f"learning_rate is missing. The paper's is known for {', '.join(PAPER_RATES)} only.")

    @classmethod
    def from_dict(cls, fields: dict[str, Any], where: str = "The training configuration") -> TrainConfig:
        """From the keys of a YAML file."""
        refuse_unknown(where, fields, (field.name for field in dataclasses.fields(cls)))
        missing = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.name not in fields]
        if missing:
            raise ValueError(f"{where} lacks {', '.join(missing)}.")
        return cls(**fields)

    @property
    def rows(self) -> int:
        """Rows of one update, over all processes together."""
        return self.rows_per_step or (self.tokens_per_step or 0) // self.length

    @property
    def peak_rate(self) -> float:
        preset = self.model if isinstance(self.model, str) else self.model.get("preset")
        return self.learning_rate if self.learning_rate is not None else PAPER_RATES[str(preset)]

    def decides(self) -> dict[str, Any]:
        """The fields that must stay as they are when a run is resumed."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in MAY_CHANGE}

    def _check_ranges(self) -> None:
        for name in ("steps", "accumulate", "evaluation_rows", "evaluate_every", "save_every", "log_every"):
            _at_least(name, getattr(self, name), 1)
        _at_least("length", self.length, 2)
        _at_least("kept_checkpoints", self.kept_checkpoints, 0)
        _at_least("weight_decay", self.weight_decay, 0)
        _at_least("mixing_rate", self.mixing_rate, 0)
        for name in ("warm_up", "final_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} is a share, from 0 to 1.")
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be more than 0.")
        if self.threads is not None:
            _at_least("threads", self.threads, 1)
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={quoted(getattr(self, name))} is not one of {', '.join(map(str, known))}.")

    def _check_rows(self) -> None:
        if (self.rows_per_step is None) == (self.tokens_per_step is None):
            raise ValueError(
                f"Give one of rows_per_step and tokens_per_step, not "
                f"{'neither' if self.rows_per_step is None else 'both'}."
            )
        if self.tokens_per_step is not None and (self.tokens_per_step < 1 or self.tokens_per_step % self.length):
            raise ValueError(f"tokens_per_step={self.tokens_per_step} is not a multiple of length={self.length}.")
        if self.rows < 1 or self.rows % self.accumulate:
            raise ValueError(f"{self.rows} rows a step cannot be taken in accumulate={self.accumulate} equal parts.")


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:  # so that NaN is refused too
        raise ValueError(f"{name}={value} must be at least {least}.")


def model_config(config: TrainConfig, tokenizer: Any | None) -> DCFormerConfig:
    """The architecture that a run trains, with what the tokenizer and the row length decide filled in.

    Raises:
        ValueError: fields are unknown, missing or contradict each other, the tokenizer or the rows.
    """
    fields: dict[str, Any] = {"preset": config.model} if isinstance(config.model, str) else dict(config.model)
    if ("preset" in fields) == ("architecture" in fields):
        raise ValueError(f"model={quoted(config.model)} needs one of preset and architecture.")
    if fields.get("compose", config.compose) != config.compose and config.compose is not None:
        raise ValueError(f"compose={config.compose} contradicts model.compose={fields['compose']}.")
    if config.compose is not None:
        fields["compose"] = config.compose
    if "dtype" in fields:
        raise ValueError("model.dtype has no effect: weights are float32. The key dtype, outside model, sets autocast.")
    if tokenizer is not None and "preset" not in fields:
        fields.setdefault("d_vocab", len(tokenizer))
    cfg = _build(fields, config.length)
    if config.length > cfg.n_ctx:
        raise ValueError(f"length={config.length} is more than the model's context n_ctx={cfg.n_ctx}.")
    if tokenizer is not None and len(tokenizer) > cfg.d_vocab:
        raise ValueError(f"The tokenizer makes {len(tokenizer)} ids, the model has d_vocab={cfg.d_vocab}. Raise it.")
    return cfg


def _build(fields: dict[str, Any], length: int) -> DCFormerConfig:
    if "preset" in fields:
        return DCFormerConfig.preset(fields.pop("preset"), **fields)
    fields.setdefault("n_ctx", length)
    try:
        return DCFormerConfig.from_architecture(fields.pop("architecture"), **fields)
    except TypeError as error:
        raise ValueError(f"model lacks a field or holds one of the wrong type ({error}).") from error
