"""The models that ship with diffc: each is a folder of diffc/shipped, and the folder is its name.

A text-conditioned one has a file of prompts, which its runs use where the recipe names none.
"""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parent.parent / "shipped"
PROMPTS = "prompts.txt"


def shipped_models() -> list[str]:
    """The names of the models that ship, in the order of the alphabet."""
    return sorted(path.parent.name for path in SHIPPED.glob("*/model_index.json"))


def is_shipped(model: str) -> bool:
    """True for the name of a model that ships."""
    return model in shipped_models()


def shipped_prompts(model: str) -> Path | None:
    """The prompts of a model that ships; None where it has none, and for every other model."""
    path = SHIPPED / model / PROMPTS
    return path if is_shipped(model) and path.is_file() else None
