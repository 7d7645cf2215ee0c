"""diffc: a compression compiler for diffusion models.

The public names are few and flat; everything heavy is imported when it is first used, so that
``import diffc`` costs nothing.

    diffc.compile("demo", ratio=0.5, out="OUT")   the whole chain, returns a Report
    diffc.search("demo", min_ssim=0.85)           goals in, the loop that reaches them out
    diffc.pipeline("OUT")                         images, by the engine that runs here, or by torch
    diffc.load("OUT")                             the same; of a model, OUT/model too, a diffusers
                                                  pipeline in torch
    diffc.Recipe                                  every option, typed and validated
    diffc.Report                                  what was measured, as report.json holds it
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from diffc.errors import DiffcError
from diffc_export.targets import register

if TYPE_CHECKING:
    from diffc.api import compile, search
    from diffc.generate.loading import load
    from diffc.generate.opening import pipeline
    from diffc.recipe import Recipe
    from diffc.report.model import Report

# the one target that runs the torch model itself, and so has to know how diffc loads it
register("torch", "diffc.torch_target")

__version__ = "0.1.0"
__all__ = ["DiffcError", "Recipe", "Report", "__version__", "compile", "load", "pipeline", "search"]

_HOMES = {
    "compile": "diffc.api",
    "load": "diffc.generate.loading",
    "pipeline": "diffc.generate.opening",
    "search": "diffc.api",
    "Recipe": "diffc.recipe",
    "Report": "diffc.report.model",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name == "ModelMixin" or name in _compressed_classes():
        return getattr(import_module("diffc.compressed"), name)
    raise AttributeError(f"module 'diffc' has no attribute {name!r}")


def _compressed_classes() -> list[str]:
    """The classes that a compressed model's model_index.json names as diffc's."""
    from diffc.models.families import family_names

    return family_names()


def __dir__() -> list[str]:
    return sorted(__all__)
