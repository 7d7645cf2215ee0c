"""How the libraries that read a user's files are held to one line and no noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffc.errors import DiffcError, InputError


def first_line(error: BaseException) -> str:
    """The first line of an error that says something; its class where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    line = lines[0].rstrip(":")
    return line if len(lines) == 1 or line == lines[0] else f"{line}: {lines[1]}"


@contextmanager
def foreign_errors(what: str, hint: str | None = None) -> Iterator[None]:
    """Make one line of whatever a library raises while it reads the user's files.

    Only calls of a library belong inside: an error of our own would be hidden. Memory that runs out
    is no matter of the files and passes.
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
    """Without transformers' own reports and progress bars; what they say is checked here."""
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
