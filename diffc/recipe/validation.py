"""Turns pydantic's errors into one line that names the key, with the nearest known key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from diffc.errors import RequestError, known_names, nearest

M = TypeVar("M", bound=BaseModel)


class WrongValue(RequestError):
    """An option of the recipe has a value that it cannot have.

    Attributes:
        key: the option, such as ``distill.steps``.
        reason: what is wrong with the value.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key, self.reason = key, reason


def validate(kind: type[M], value: Mapping[str, object], where: str) -> M:
    """``value`` as a ``kind``.

    Args:
        where: what holds ``value``, for the error: a file's path, or "the options".

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
        hint = known_names(path[-1], sorted(known))
        return RequestError(f"unknown key '{key}' in {where}", hint=hint)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":  # diffc's own message, which names the value already
        return _own_error(kind, path, message)
    reason = _reason(first["type"], first.get("ctx", {}), first.get("input")) or message
    return WrongValue(key, reason) if key else RequestError(reason)


def _own_error(kind: type[BaseModel], path: list[str], message: str) -> RequestError:
    """diffc's own message; where it begins with the option's name, with the option's key too."""
    while path and path[-1].isdecimal():  # of a list, the message is about one of its values
        path = path[:-1]
    name, colon, reason = message.partition(": ")
    if colon and name in _keys_at(kind, path):  # what a section as a whole has checked
        return WrongValue(".".join([*path, name]), reason)
    if colon and path and name in (path[-1], path[-1].removesuffix("s")):
        return WrongValue(".".join(path), reason)
    return RequestError(message)


_LIMITS = {
    "greater_than_equal": ("is too small", "at least", "ge"),
    "greater_than": ("is too small", "more than", "gt"),
    "less_than_equal": ("is too large", "at most", "le"),
    "less_than": ("is too large", "less than", "lt"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping of names to values",
    "model": "a mapping of options",
}
"""By the beginning of pydantic's type of error: int_parsing, int_type, int_from_float."""


def _reason(kind: str, limits: Mapping[str, object], value: object) -> str | None:
    """What is wrong with a value; None for an error that has no words here."""
    text = _value_text(value)
    if kind == "literal_error":
        expected = str(limits.get("expected", "")).replace("'", "")
        words = expected.replace(" or ", ", ").split(", ")
        if len(words) == 1:
            return f"{text} is not {expected}"
        close = nearest(str(value).lower(), words)
        return f"{text} is none of {expected}" + (f" (did you mean {close[0]}?)" if close else "")
    if kind in _LIMITS:
        size, bound, name = _LIMITS[kind]
        return f"{text} {size}: {bound} {_number(limits.get(name))}"
    what = _KINDS.get(kind.partition("_")[0])
    return None if what is None else f"{text} is not {what}"


def _value_text(value: object) -> str:
    """The value, if it is short enough for a message."""
    if isinstance(value, float):
        return _number(value)
    text = str(value) if isinstance(value, str | int) else ""
    return text if 0 < len(text) <= 60 and text.isprintable() else "the value"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def option_paths(kind: type[BaseModel], before: str = "") -> list[str]:
    """Every option of a recipe as a path: ``distill.steps``."""
    paths = []
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            paths += option_paths(inner, f"{before}{name}.")
        else:
            paths.append(f"{before}{name}")
    return paths


def _keys_at(kind: type[BaseModel], path: list[str]) -> set[str]:
    for part in path:
        field = kind.model_fields.get(part)
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return set()
        kind = inner
    return set(kind.model_fields)
