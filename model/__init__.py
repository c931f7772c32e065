"""What a model is: configuration, mixing mathematics, the hooked model, checkpoints and capture."""

from model.capture import Capture
from model.checkpoints import list_models, load_model, save_model
from model.config import DCFormerConfig
from model.engine import Engine
from model.recording import Recorder, capture
from model.transformer import HookedDCFormer

__all__ = [
    "Capture",
    "DCFormerConfig",
    "Engine",
    "HookedDCFormer",
    "Recorder",
    "capture",
    "list_models",
    "load_model",
    "save_model",
]
