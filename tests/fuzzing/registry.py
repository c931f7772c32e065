"""The components, one line each."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzzing import (
    config,
    index,
    interventions,
    links,
    safetensors_file,
    store,
    study,
    tasks,
    tokenizer,
    torch_file,
    training,
)
from tests.fuzzing.component import Component

COMPONENTS: dict[str, Callable[[], Component]] = {
    "config": config.component,
    "safetensors": safetensors_file.component,
    "index": index.component,
    "torch_file": torch_file.component,
    "tokenizer": tokenizer.component,
    "tasks": tasks.component,
    "store": store.component,
    "study": study.component,
    "training": training.component,
    "interventions": interventions.component,
    "links": links.component,
}
