"""Reading config.json: every complaint names the file, the key, what it holds and what would do."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.checkpoints.errors import ModelLoadError
from model.config import LARGEST
from model.plain_words import parse_json

CONFIG_NAME = "config.json"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelLoadError: the file cannot be read, is not JSON, or holds something other than an object.
    """
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise ModelLoadError(f"{path} is not valid JSON ({error}). Fetch or write the file again.") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    return content


class ConfigFile:
    """A config.json whose values are checked as they are taken. A null counts as absent.

    A key without a default must be present.
    """

    def __init__(self, path: Path, values: dict[str, Any]):
        self.path, self.values = path, values

    @classmethod
    def read(cls, directory: Path) -> ConfigFile:
        path = directory / CONFIG_NAME
        if not path.is_file():
            raise ModelLoadError(
                f"{directory} holds no {CONFIG_NAME}. A model directory holds {CONFIG_NAME} and its weights "
                "(model.safetensors, shards with an index, or pytorch_model.bin)."
            )
        return cls(path, read_json(path))

    @property
    def model_type(self) -> str | None:
        """Which layout the directory is in."""
        return self.values.get("model_type")

    def whole(self, key: str, default: int | None = None, minimum: int = 1) -> int:
        value = self._take(key, default, f"a whole number of at least {minimum}")
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self.error(key, f"a whole number of at least {minimum}")
        if value > LARGEST:
            raise self.error(key, f"a whole number of at most {LARGEST}")
        return value

    def positive(self, key: str, default: float | None = None) -> float:
        value = self._take(key, default, "a positive number")
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise self.error(key, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._take(key, default, "true or false")
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def choice(self, key: str, allowed: Sequence[str], default: str | None = None) -> str:
        value = self._take(key, default, f"one of {', '.join(allowed)}")
        if value not in allowed:
            raise self.error(key, f"one of {', '.join(allowed)}")
        return value

    def end_token(self) -> int | None:
        """eos_token_id if this file names one."""
        value = self.values.get("eos_token_id")
        if value is None or value == []:
            return None
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.error("eos_token_id", "one token id or null: generation stops at one end token")
        return value

    def only(self, key: str, *supported: Any) -> None:
        """Refuse any value but these (or none at all): the model would be computed wrongly."""
        value = self.values.get(key)
        # an exact match of type too: 1 is not true here
        if value is not None and not any(value == one and type(value) is type(one) for one in supported):
            raise self.error(key, " or ".join(map(json.dumps, supported)) or "null")

    def error(self, key: str, need: str) -> ModelLoadError:
        value = self.values.get(key)
        held = f"has no {key!r}" if value is None else f"says {key!r}: {_short(value)}"
        return ModelLoadError(f"{self.path} {held}; this layout needs {need}.")

    def _take(self, key: str, default: Any, need: str) -> Any:
        value = self.values.get(key)
        value = default if value is None else value
        if value is None:
            raise self.error(key, need)
        return value


def refuse_scaled_rotary(config: ConfigFile) -> None:
    """Only unscaled rotary positions are computed here; both of transformers' names for the scaling are looked at."""
    for key in ("rope_scaling", "rope_parameters"):
        scaling = config.values.get(key)
        if scaling is None:
            continue
        kind = scaling.get("rope_type", scaling.get("type")) if isinstance(scaling, dict) else None
        unscaled = kind == "default" or (kind is None and key == "rope_parameters" and isinstance(scaling, dict))
        if not unscaled:
            raise config.error(key, "unscaled rotary positions (null)")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
