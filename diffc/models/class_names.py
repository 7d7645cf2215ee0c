"""Translates older and misspelt class names of configs into the names of today."""

from __future__ import annotations

from diffc.models.families import families, family_names
from diffc_runtime.json_types import JsonObject


def current_class(class_name: str, config: JsonObject) -> str:
    """Return the class that the installed diffusers loads for ``class_name``.

    Args:
        class_name: A class name of a config or an index.
        config: The component's own config.

    Returns:
        The name of today; ``class_name`` itself if no family knows it.
    """
    by_lower_case = {name.lower(): name for name in family_names()}
    if class_name.lower() in by_lower_case:
        return by_lower_case[class_name.lower()]
    for known in families():
        entries = known.older_names.get(class_name)
        if entries is not None and all(config.get(key) == entries[key] for key in entries):
            return known.class_name
    return class_name
