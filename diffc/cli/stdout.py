"""Stdout is for answers alone: what other code prints while a verb works goes to stderr.

    move_stdout     once a process: descriptor 1 becomes another name of stderr
    answers_alone   while a verb works: ``print`` of other code goes to stderr
    answer_stream   where a verb's answer is written
    stream_columns  how wide the terminal is that a stream goes to

Targets and families of other packages, their libraries and the processes that they start print
what they like. ``diffc ... --json | jq`` reads one JSON object all the same.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_STDOUT = 1
_answers: TextIO | None = None


def move_stdout() -> None:
    """Make ``sys.stdout`` a stream of its own, and descriptor 1 another name of stderr.

    Libraries in C and child processes write to descriptor 1, whatever ``sys.stdout`` is. It is
    never moved back: what C's own buffer holds is written when the process ends.
    """
    stream = sys.stdout
    # else it is closed, or a caller has put a stream of its own in its place
    if not isinstance(stream, io.TextIOWrapper) or _descriptor(stream) != _STDOUT:
        return
    stream.flush()
    sys.stdout = open(  # noqa: PTH123, SIM115 - a descriptor, open as long as the process
        os.dup(_STDOUT),
        "w",
        buffering=1 if stream.line_buffering or stream.write_through else -1,
        encoding=stream.encoding,
        errors=stream.errors,
    )
    aim = _descriptor(sys.stderr)
    os.dup2(os.open(os.devnull, os.O_WRONLY) if aim is None else aim, _STDOUT)


def _descriptor(stream: TextIO | None) -> int | None:
    """The stream's file descriptor; None where it has none, or there is no stream."""
    try:
        return None if stream is None else stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


@contextmanager
def answers_alone() -> Iterator[None]:
    """Let ``sys.stdout`` be stderr meanwhile; ``answer_stream`` is what it was before."""
    global _answers
    before, stream = _answers, sys.stdout
    _answers = before or stream
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout, _answers = stream, before


def answer_stream() -> TextIO:
    """The stream of a verb's answer: stdout, and a stream into nothing where stdout is closed."""
    return _answers or sys.stdout or io.StringIO()


def stream_columns(stream: TextIO) -> int | None:
    """The columns of the terminal that a stream goes to.

    Libraries ask descriptor 1, which is stderr's.

    Returns:
        None where the stream goes to no terminal, or COLUMNS says how wide to write.
    """
    number = _descriptor(stream)
    if number is None or os.environ.get("COLUMNS", "").isdigit():
        return None
    try:
        return os.get_terminal_size(number).columns or None
    except OSError:
        return None
