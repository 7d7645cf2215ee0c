"""Turns the errors of libraries that read a user's files into one line, and silences their logs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
def quiet_transformers() -> Iterator[None]:
    """Switch off transformers' own reports and progress bars; diffc checks what they report."""
    from transformers.utils import logging

    level, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bar:
            logging.enable_progress_bar()
