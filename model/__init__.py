"""What a model is: configuration, mixing mathematics, the hooked model, checkpoints and capture.

Where TransformerLens is not installed only the numerical core can be imported (model.mixing, model.functional,
model.backends): it needs torch alone, so that it can be timed on a bare GPU machine.
"""

from importlib.util import find_spec

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

if find_spec("transformer_lens") is not None:
    from model.capture import Capture
    from model.checkpoints import list_models, load_model, save_model
    from model.config import DCFormerConfig
    from model.engine import Engine
    from model.recording import Recorder, capture
    from model.transformer import HookedDCFormer
else:

    def __getattr__(name: str) -> None:
        if name in __all__:
            raise ImportError(
                f"model.{name} needs transformer_lens, which is not installed: pip install -r requirements.txt. "
                "Without it model.mixing, model.functional and model.backends work."
            )
        raise AttributeError(f"module 'model' has no attribute {name!r}")
