"""Put a training checkpoint into the zoo: python -m studies.demo_pair.export --work DIR."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from model import HookedDCFormer
from model.checkpoints import save_model
from studies.demo_pair.tokenizer import train_tokenizer
from studies.demo_pair.train import SEED, demo_config

NAMES = ("dcformer", "transformer")
ZOO = Path(__file__).parents[2] / "model" / "zoo"


def from_checkpoint(name: str, work: Path) -> HookedDCFormer:
    """The model of a training checkpoint, in eval mode."""
    tokenizer = train_tokenizer(SEED)
    model = HookedDCFormer(demo_config(name == "dcformer", len(tokenizer)), tokenizer=tokenizer)
    model.load_state_dict(torch.load(work / f"{name}.pt", weights_only=True)["model"])
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of training checkpoints")
    work = parser.parse_args().work
    for name in NAMES:
        card = ZOO / name / "MODEL_CARD.md"
        text = card.read_text(encoding="utf-8") if card.exists() else None
        # save_model replaces a directory only if it holds nothing but a model
        card.unlink(missing_ok=True)
        save_model(from_checkpoint(name, work), ZOO / name)
        if text is not None:
            card.write_text(text, encoding="utf-8")
        print(f"{name}: {ZOO / name}")


if __name__ == "__main__":
    main()
