"""The text encoders of pipelines: what each kind gives, and how it becomes an engine.

    base.py         what a kind of text encoder states
    clip.py         CLIP, with and without projection
    t5.py           T5 and UMT5
    gemma.py        Gemma 2
    pipelines.py    the text encoders of one pipeline: which are exported, and why others are not
    tokenizers.py   a tokenizer's files -> one tokenizer.json
    export.py       a text encoder -> an ONNX folder, with what torch gave
    torch_calls.py  the text encoders of a pipeline as torch runs them

A kind is a file with a ``KIND``, found by listing this folder. Which of its outputs make which
condition is the matter of the denoiser's family (``Family.prompt_plan``).
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from pathlib import Path

from diffc.models.texts.base import TextEncoderKind

__all__ = ["TextEncoderKind", "find_kind"]


@lru_cache(maxsize=1)
def _kinds() -> dict[str, TextEncoderKind]:
    kinds: dict[str, TextEncoderKind] = {}
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if "\nKIND = " in file.read_text("utf-8"):
            kind: TextEncoderKind = import_module(f"{__name__}.{file.stem}").KIND
            kinds |= dict.fromkeys(kind.class_names, kind)
    return kinds


def find_kind(class_name: str) -> TextEncoderKind | None:
    """Return the kind of a text encoder's class; None for a class that is not exported."""
    return _kinds().get(class_name)
