"""What is said to a keyword that a function does not take: which of its arguments is meant."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec, TypeVar

from .errors import BadRequest, nearest

P = ParamSpec("P")
Result = TypeVar("Result")
_PRECISIONS = {"float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16"}
_PRECISIONS |= {"bfloat16": "bf16"}
"""torch's names of dtypes as diffc's."""


def checked_keywords(
    **elsewhere: str,
) -> Callable[[Callable[P, Result]], Callable[P, Result]]:
    """Decorate a function, so that an unknown keyword is a BadRequest with a hint.

    Python's own error, a TypeError, does not say what to write instead.

    Args:
        **elsewhere: Of keywords that other libraries' functions take: what to do here.
    """

    def decorate(function: Callable[P, Result]) -> Callable[P, Result]:
        known = [name for name in inspect.signature(function).parameters if name != "self"]

        @functools.wraps(function)
        def call(*given: P.args, **named: P.kwargs) -> Result:
            for name, value in named.items():
                if name not in known:
                    raise unknown_keyword(function.__qualname__, name, value, known, elsewhere)
            return function(*given, **named)

        return call

    return decorate


def unknown_keyword(
    function: str,
    name: str,
    value: object,
    known: Iterable[str],
    elsewhere: Mapping[str, str] | None = None,
) -> BadRequest:
    """Return the error for a keyword that a function does not take.

    Args:
        function: The function's name.
        name: The keyword.
        value: The keyword's value.
        known: The function's arguments.
        elsewhere: Keyword -> what to do in its place.
    """
    close = nearest(name, known, n=1)
    if name in (elsewhere or {}):
        hint = (elsewhere or {})[name]
    elif close:
        precision = _PRECISIONS.get(str(value).rpartition(".")[2])
        is_dtype = close == ["dtype"] and precision is not None
        hint = f"did you mean {f'dtype={precision!r}' if is_dtype else close[0]}?"
    else:
        hint = f"it takes {', '.join(known)}"
    return BadRequest(f"{function.removesuffix('.__init__')}() takes no '{name}'", hint=hint)
