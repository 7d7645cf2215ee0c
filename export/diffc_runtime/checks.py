"""Checks of a request to a pipeline: its numbers, and the arrays of its conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .errors import BadRequest
from .values import Array, Input

MOST_IMAGES = 1024
"""The largest number of images of one request."""
LAST_SEED = 2**63 - 1


def check_numbers(n: int, seed: int) -> None:
    """Refuse a number of images or a seed that is out of range. Raises BadRequest."""
    check_whole_number("n, the number of images,", n, 1, MOST_IMAGES)
    check_whole_number("seed", seed, 0, LAST_SEED)


def is_whole(value: object) -> bool:
    """Whether a value is a whole number; True and False, which Python counts as 1 and 0, are not.

    Args:
        value: What a caller gave.
    """
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_whole_number(what: str, value: int, low: int, high: int) -> None:
    """Refuse what is no whole number from ``low`` to ``high``. Raises BadRequest."""
    if not is_whole(value) or not low <= value <= high:
        raise BadRequest(f"{what} must be a whole number from {low} to {high}, not {value!r}")


def row_count(spec: Input, value: object) -> int:
    """Return N of a condition (N, ...); 1 of one for all images, or of what is no array."""
    try:
        shape = np.asarray(value).shape
    except ValueError:  # rows of different lengths
        return 1
    return shape[0] if len(shape) == len(spec.shape) + 1 else 1


def rows_of_conditions(
    conditions: Sequence[Input], given: Mapping[str, object], n: int, what: str
) -> dict[str, Array]:
    """Return every condition of a model as (n, ...).

    Args:
        conditions: Those that the model takes.
        given: Their values, name -> (...) or (n, ...).
        n: The number of images.
        what: What a value is, in an error.

    Raises:
        BadRequest: One is missing or unknown, or its value does not fit.
    """
    known = [spec.name for spec in conditions]
    for name in given:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise BadRequest(f"unknown condition '{name}' (the model takes: {listed})")
    for spec in conditions:
        if spec.name not in given:
            need = ("n", *spec.shape)
            raise BadRequest(f"the {what} '{spec.name}' is missing: {spec.dtype} {need}")
    return {spec.name: _condition_rows(spec, given[spec.name], n, what) for spec in conditions}


def _condition_rows(spec: Input, value: object, n: int, what: str) -> Array:
    """Return a condition as (n, ...) in the input's dtype. Raises BadRequest about ``what``."""
    try:
        array = np.asarray(value)
        number = np.issubdtype(array.dtype, np.number) and not np.iscomplexobj(array)
    except ValueError:  # rows of different lengths
        number = False
    if not number:
        raise BadRequest(f"{what} '{spec.name}' is not an array of real numbers")
    if array.shape == spec.shape:
        array = np.broadcast_to(array, (n, *spec.shape))
    if array.shape != (n, *spec.shape):
        raise BadRequest(
            f"{what} '{spec.name}' must have shape {(n, *spec.shape)} or {spec.shape},"
            f" not {array.shape}"
        )
    whole = np.issubdtype(spec.dtype, np.integer)
    if whole and not np.issubdtype(array.dtype, np.integer):
        raise BadRequest(f"{what} '{spec.name}' must be whole numbers, not {array.dtype}")
    with np.errstate(over="ignore"):  # what half precision cannot hold becomes infinite
        rows = array.astype(spec.dtype, copy=False)
    if not whole and not np.isfinite(rows).all():
        raise BadRequest(
            f"{what} '{spec.name}' has values that are not finite in {np.dtype(spec.dtype)}"
        )
    return rows
def _check_range(spec: Input, array: Array, what: str) -> None:
    """Refuse numbers that are none of a condition's: engines take them, for other images.

    Some count a negative number from the end, and some read beyond the last row of a table.
    """
    last = int(np.iinfo(spec.dtype).max) if spec.values is None else spec.values - 1
    if array.size and not (array.min() >= 0 and array.max() <= last):
        wrong = array.min() if array.min() < 0 else array.max()
        raise BadRequest(f"{what} '{spec.name}' must be from 0 to {last}, not {wrong}")


    if whole:
        _check_range(spec, array, what)
