"""Turns config values that cannot be used into one line, wherever a config is read.

    reading_config   a context in which a class's config is read
    strange_values   the keys whose values have another kind than the class's constructor takes
    constructor_defaults  the values of the keys that a config leaves out

Code that reads a config stays plain: it uses the values as the class takes them. A config is the
user's file, so an error while reading it becomes an error about the file, which names the keys that
are the likely cause.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffc.errors import DiffcError, InputError
from diffc_runtime.json_types import JsonDict, JsonObject

_FAILURES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)
"""What arithmetic, indexing and diffusers classes raise for values that they do not take."""
_LONGEST = 120  # characters of a reason
_NAMED = 2  # so many keys are named
_KINDS = ((bool | int | float, "number"), (str, "text"), (list | tuple, "list"), (dict, "table"))


@contextmanager
def reading_config(class_name: str, config: JsonObject) -> Iterator[None]:
    """Raise InputError if the block fails because of the values of ``config``.

    Args:
        class_name: The diffusers class that the config is of.
        config: The content of its JSON file.

    Raises:
        InputError: The block raised an error that unusable values cause.
    """
    try:
        yield
    except (DiffcError, MemoryError):
        raise
    except _FAILURES as error:
        strange = strange_values(class_name, config)
        words = [f"{key} is {str(config[key])[:40]!r}" for key in strange[:_NAMED]]
        reason = ", ".join(words) or " ".join(str(error).split())[:_LONGEST].rstrip(" :")
        raise InputError(
            f"the config of this {class_name} cannot be read: {reason or type(error).__name__}",
            hint="check the values in its config file, or copy the file again",
        ) from error


def strange_values(class_name: str, config: JsonObject) -> list[str]:
    """Return the keys whose values are of another kind (number, text, list, table) than expected.

    The class's constructor states the kind. Published configs hold lists where a number is
    declared, so the result names suspects; no config is refused for it alone.
    """
    import diffusers

    kind = getattr(diffusers, class_name, None)
    if kind is None:
        return []
    parameters = inspect.signature(kind.__init__).parameters
    hints = typing.get_type_hints(kind.__init__)
    return [
        key
        for key, value in config.items()
        if key in parameters and not _fits(value, hints.get(key), parameters[key].default)
    ]


def constructor_defaults(kind: Any) -> JsonDict:
    """Return argument -> default of a class's constructor; {} for None."""
    parameters = inspect.signature(kind.__init__).parameters if kind is not None else {}
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def _fits(value: object, hint: object, default: object) -> bool:
    kinds = _kinds_of(hint) | {_kind(default)}
    if isinstance(value, list | tuple):
        return "list" in kinds and all(_kind(v) in kinds | {"list"} for v in value)
    return _kind(value) in kinds or not kinds - {"other"}


def _kinds_of(hint: object) -> set[str]:
    """Return the kinds of a constructor's annotation, including those inside its lists."""
    origin = typing.get_origin(hint)
    if origin is None:
        return {_kind_of_type(hint)} if isinstance(hint, type) else set()
    inner = {kind for arg in typing.get_args(hint) for kind in _kinds_of(arg)}
    if origin in (typing.Union, types.UnionType):
        return inner
    return inner | {_kind_of_type(origin)} if isinstance(origin, type) else inner


def _kind_of_type(kind: type) -> str:
    if kind is type(None):
        return "nothing"
    return next((name for types_, name in _KINDS if issubclass(kind, types_)), "other")


def _kind(value: object) -> str:
    return _kind_of_type(type(value))
