"""Conditions on a command line: numbers, and arrays from files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .array_files import DAMAGE
from .calls import ARGUMENTS
from .errors import BadRequest


def named_values(given: Sequence[str]) -> dict[str, Any]:
    """Parse ``NAME=3``, ``NAME=0.5`` and ``NAME=file.npy``.

    Returns:
        name -> value, an array for a file.

    Raises:
        BadRequest: The text has another form, a file cannot be read, or the name is that of
            another argument of a call.
    """
    values = {}
    for item in given:
        name, sign, text = item.partition("=")
        if not sign:
            raise BadRequest(f"a condition is NAME=NUMBER or NAME=FILE.npy, not '{item}'")
        if name in ARGUMENTS:
            raise BadRequest(f"'{name}' is no condition of a model: --help has the flag for it")
        values[name] = _value(name, text)
    return values


def _value(name: str, text: str) -> Any:
    if text.endswith(".npy"):
        try:
            return np.load(text, allow_pickle=False)
        except DAMAGE as error:
            raise BadRequest(f"condition '{name}': cannot read {text}: {error}") from None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise BadRequest(f"condition '{name}' is neither a number nor an .npy: '{text}'") from None
