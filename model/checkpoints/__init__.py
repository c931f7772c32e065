"""Models on disk: loading, listing and saving. One file per layout; registry.py lists them."""

from model.checkpoints.errors import ModelLoadError
from model.checkpoints.load import list_models, load_model
from model.checkpoints.save import save_model

__all__ = ["ModelLoadError", "list_models", "load_model", "save_model"]
