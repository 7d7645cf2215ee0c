"""Turns pydantic's errors into one line that names the key, with the nearest known key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from diffc.errors import RequestError, nearest

M = TypeVar("M", bound=BaseModel)


def validate(kind: type[M], value: Mapping[str, object], where: str) -> M:
    """``value`` as a ``kind``.

    Args:
        where: what holds ``value``, for the error: a file's path, or "the flags".

    Raises:
        RequestError: one line about the first thing that is wrong in ``value``.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _request_error(kind, error, where) from None


def _request_error(kind: type[BaseModel], error: ValidationError, where: str) -> RequestError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _keys_at(kind, path[:-1])
        close = nearest(path[-1], known)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(sorted(known))}"
        return RequestError(f"unknown key '{key}' in {where}", hint=hint)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # diffc's own message, which names the value already
        return RequestError(message)
    value = first.get("input")
    shown = f" (got {value!r})" if isinstance(value, str | int | float | bool) else ""
    return RequestError(f"{key}: {message}{shown}" if key else message)


def _keys_at(kind: type[BaseModel], path: list[str]) -> set[str]:
    for part in path:
        field = kind.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return set()
        kind = inner
    return set(kind.model_fields)
