"""The exceptions that diffc raises on purpose; diffc_runtime/errors.py has the tree."""

from diffc_runtime.errors import (
    EXIT_BUG,
    EXIT_INTERRUPTED,
    EXIT_OK,
    CheckFailed,
    DamagedEngine,
    DiffcError,
    Inconclusive,
    InputError,
    NotComparable,
    OutOfMemory,
    RequestError,
    UnavailableError,
    in_short,
    known_names,
    nearest,
    unknown,
)

__all__ = [
    "EXIT_BUG",
    "EXIT_INTERRUPTED",
    "EXIT_OK",
    "CheckFailed",
    "DamagedEngine",
    "DiffcError",
    "Inconclusive",
    "InputError",
    "NotComparable",
    "OutOfMemory",
    "RequestError",
    "UnavailableError",
    "in_short",
    "known_names",
    "nearest",
    "unknown",
]
