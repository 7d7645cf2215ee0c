"""Which class of today an older or misspelt class name of a config means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffc.models.families import family_names

_BY_NORM = {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"}
"""Transformer2DModel was split by its kind of norm; diffusers maps it in the same way."""


def current_class(class_name: str, config: Mapping[str, Any]) -> str:
    """The class that the installed diffusers loads for ``class_name``.

    config: the component's own. Names that nobody knows are given back as they are.
    """
    if class_name == "Transformer2DModel":
        return _BY_NORM.get(str(config.get("norm_type")), class_name)
    by_lower_case = {name.lower(): name for name in family_names()}
    return by_lower_case.get(class_name.lower(), class_name)
