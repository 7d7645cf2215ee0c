"""Turns the errors of libraries that read a user's files into one line, and silences their logs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from diffc.errors import DiffcError, InputError


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; the error's class if there is no text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    line = lines[0].rstrip(":")
    return line if len(lines) == 1 or line == lines[0] else f"{line}: {lines[1]}"


@contextmanager
def foreign_errors(what: str, hint: str | None = None) -> Iterator[None]:
    """Turn any error that a library raises while it reads the user's files into one line.

    Only calls of a library belong inside: an error of diffc's own would be hidden. Running out of
    memory has nothing to do with the files, so such errors pass unchanged.

    Args:
        what: The beginning of the message: which file cannot be used.
        hint: What the user can do.

    Raises:
        InputError: The block raised an error.
    """
    import torch

    try:
        yield
    except (DiffcError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the libraries raise every kind, of other libraries too
        raise InputError(f"{what}: {first_line(error)[:160]}", hint=hint) from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Switch off all warnings in logs, and the progress bars of diffusers and transformers.

    Only calls belong inside whose results diffc checks itself: what the logs say is lost. No
    library is imported for it: transformers alone takes a second.
    """
    with ExitStack() as stack:
        stack.callback(logging.disable, logging.root.manager.disable)
        logging.disable(max(logging.root.manager.disable, logging.WARNING))
        for name in ("diffusers.utils.logging", "transformers.utils.logging"):
            bars = sys.modules.get(name)
            if bars is not None and bars.is_progress_bar_enabled():
                stack.callback(bars.enable_progress_bar)
                bars.disable_progress_bar()
        yield
