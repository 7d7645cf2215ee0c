"""The families diffc knows, by class name; each file is imported when its family is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from diffc.errors import InputError

if TYPE_CHECKING:
    from diffc.models.families.base import Family

# class name -> (component's folder in a pipeline, the module here)
_FAMILIES = {
    "UNet2DModel": ("unet", "unet2d"),
    "UNet2DConditionModel": ("unet", "unet2d_condition"),
    "DiTTransformer2DModel": ("transformer", "dit"),
    "PixArtTransformer2DModel": ("transformer", "pixart"),
    "SD3Transformer2DModel": ("transformer", "sd3"),
    "FluxTransformer2DModel": ("transformer", "flux"),
    "SanaTransformer2DModel": ("transformer", "sana"),
    "WanTransformer3DModel": ("transformer", "wan"),
    "AutoencoderKL": ("vae", "autoencoder_kl"),
}


def family_names() -> list[str]:
    """The diffusers classes that diffc can compress."""
    return list(_FAMILIES)


def component_of(class_name: str) -> str:
    """The folder of a pipeline that holds the class: ``unet``, ``transformer``, ``vae``."""
    return _FAMILIES[class_name][0]


def family(class_name: str) -> Family:
    """The family of a diffusers class. Raises InputError with a clear list when it is unknown."""
    if class_name not in _FAMILIES:
        raise InputError(
            f"unknown model family '{class_name}'", hint=f"known: {', '.join(_FAMILIES)}"
        )
    module = import_module(f"diffc.models.families.{_FAMILIES[class_name][1]}")
    found: Family = module.FAMILY
    return found
