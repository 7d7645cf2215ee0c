"""Checks of a request to a pipeline: its numbers, and the arrays of its conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .errors import BadRequest, value_words
from .values import Array, Input

MOST_IMAGES = 1024
"""The largest number of images of one request."""
LAST_SEED = 2**63 - 1
MOST_GUIDANCE = 100.0
NONE_PREFIX = "unconditional_"
"""Before a condition's name: its value for "none", which guidance leads away from."""


def check_numbers(n: object, seed: object) -> None:
    """Refuse a number of images or a seed that is out of range. Raises BadRequest."""
    check_whole_number("n, the number of images,", n, 1, MOST_IMAGES)
    check_whole_number("seed", seed, 0, LAST_SEED)


def is_whole_number(value: object) -> bool:
    """Return True for a whole number of Python's or numpy's; True itself is none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_whole_number(what: str, value: object, low: int, high: int) -> int:
    """Return a whole number from ``low`` to ``high`` as Python's own: numpy's small ones overflow.

    Raises:
        BadRequest: It is something else.
    """
    if not is_whole_number(value) or not low <= value <= high:  # type: ignore[operator]
        raise BadRequest(
            f"{what} must be a whole number from {low} to {high}, not {value_words(value)}"
        )
    return int(value)  # type: ignore[call-overload, no-any-return]


def check_guidance(scale: object) -> float:
    """Return a scale of guidance, 0 to 100, as Python's own. Raises BadRequest for others."""
    number = isinstance(scale, (int, float, np.integer, np.floating))
    if not number or isinstance(scale, bool) or not 0 <= scale <= MOST_GUIDANCE:  # type: ignore[operator]
        raise BadRequest(f"guidance must be 0 to {MOST_GUIDANCE:g}, not {value_words(scale)}")
    return float(scale)  # type: ignore[arg-type]


def numpy_of(value: object) -> Array | None:
    """Return what a caller gave as an array; None where numpy makes none of it.

    A tensor of torch may have gradients, lie on a GPU, or be of bf16, which numpy does not know.
    """
    given: Any = value
    try:
        if hasattr(given, "detach") and hasattr(given, "cpu"):
            given = given.detach().cpu()
            given = given.float() if given.is_floating_point() else given
        return np.asarray(given)
    except Exception:  # rows of different lengths, a tensor without values, any object's own
        return None


def row_count(spec: Input, value: object) -> int:
    """Return N of a condition (N, ...); 1 of one for all images, or of what is no array."""
    array = numpy_of(value)
    rows = array is not None and array.ndim == len(spec.shape) + 1
    return len(array) if rows and array is not None else 1


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
    known, none = [spec.name for spec in conditions], what.startswith("unconditional")
    for name in given:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise BadRequest(f"unknown condition '{name}' (the model takes: {listed})")
    for spec in conditions:
        if spec.name not in given:
            need = ("n", *spec.shape)
            given_as = f"give {NONE_PREFIX}{spec.name}, or a guidance of 1" if none else None
            message = f"the {what} '{spec.name}' is missing: {spec.dtype} {need}"
            raise BadRequest(message, hint=given_as)
    return {spec.name: _condition_rows(spec, given[spec.name], n, what) for spec in conditions}


def _check_range(spec: Input, array: Array, what: str) -> None:
    """Refuse numbers that are none of a condition's: engines take them, for other images.

    Some count a negative number from the end, and some read beyond the last row of a table.
    """
    last = int(np.iinfo(spec.dtype).max) if spec.values is None else spec.values - 1
    if array.size and not (array.min() >= 0 and array.max() <= last):
        wrong = array.min() if array.min() < 0 else array.max()
        raise BadRequest(f"{what} '{spec.name}' must be from 0 to {last}, not {wrong}")


def _condition_rows(spec: Input, value: object, n: int, what: str) -> Array:
    """Return a condition as (n, ...) in the input's dtype. Raises BadRequest about ``what``."""
    array = numpy_of(value)
    if array is None or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
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
    if whole:
        _check_range(spec, array, what)
    with np.errstate(over="ignore"):  # what half precision cannot hold becomes infinite
        rows = array.astype(spec.dtype, copy=False)
    if not whole and not np.isfinite(rows).all():
        raise BadRequest(
            f"{what} '{spec.name}' has values that are not finite in {np.dtype(spec.dtype)}"
        )
    return rows
