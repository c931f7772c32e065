"""Training: the paper's recipe for a model of any size on any source of tokens. Imported only when asked for."""

from model.training.config import TrainConfig
from model.training.loop import train
from model.training.runs import read_runs

__all__ = ["TrainConfig", "read_runs", "train"]
