"""Lets diffusers open a compressed model's folder: ``DiffusionPipeline.from_pretrained``.

model_index.json names ``diffc`` as the library of the cut denoiser. In a program that has imported
diffc, diffusers asks it for the denoiser's class; no code of the folder runs. In any other, its
error says to import diffc. What it gets is an ordinary network of the class, cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers import ModelMixin as ModelMixin  # by this name diffusers knows how to load a class

from diffc.models.families import family_names

if TYPE_CHECKING:
    import torch
    from torch import nn


def __getattr__(name: str) -> Any:
    """Return a stand-in for the class ``name``, which opens cut networks of it."""
    from diffc.models.classes import network_class

    if name not in family_names():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return type(name, (network_class(name),), {"from_pretrained": classmethod(_from_pretrained)})


def _from_pretrained(
    cls: type,
    /,
    folder: str | Path,
    *,
    torch_dtype: torch.dtype | None = None,
    dtype: torch.dtype | None = None,
    **_: object,
) -> nn.Module:
    """Load the cut denoiser whose folder this is; what else diffusers passes is about speed."""
    from torch import nn

    from diffc.models.load import load_denoiser
    from diffc.models.source import find_source

    model = load_denoiser(find_source(Path(folder).parent))
    wanted = dtype or torch_dtype
    return model if wanted is None else nn.Module.to(model, wanted)
