"""The command line: one file per group of verbs, thin: parse, call, show.

Nothing here imports torch, numpy or pydantic at the top: ``diffc --help`` has to answer at once.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import NoReturn

from diffc.errors import EXIT_BUG, EXIT_INTERRUPTED, DiffcError, InputError


def main() -> None:
    """The entry point ``diffc``: run a verb, turn what a user did wrong into a line and a code.

    Everything else that is raised is a bug: its traceback is shown, and the exit code is not 1,
    which says that a check failed.
    """
    try:
        _run_verb()
    except SystemExit:
        raise
    except DiffcError as error:
        _end_with_line(error)
    except KeyboardInterrupt:
        _interrupted()
    except BrokenPipeError:  # the reader of our output went away
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        from diffc_export.disks import disk_error

        line = disk_error(error)
        _end_with_line(line) if line is not None else _end_with_traceback()
    except BaseException:  # libraries in Rust panic with exceptions of their own
        _end_with_traceback()


def _run_verb() -> None:
    from diffc.cli.app import app

    _check_working_directory()
    signal.signal(signal.SIGTERM, _interrupt)
    # the interpreter's last collections walk through all that torch imported, for about a second
    atexit.register(gc.freeze)
    try:
        app()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer would end with 1
            raise end.__context__ from None
        raise
    finally:
        _flush_stdout()


def _check_working_directory() -> None:
    """Libraries that ask for it while they are imported fail obscurely where it was removed."""
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(
            f"the working directory cannot be used: {error.strerror}",
            hint="it was moved or removed: change to another folder (cd), and run this again",
        ) from error


def _flush_stdout() -> None:
    """Write what is buffered while a failure can still be said and given a code."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _forget_stdout()
        raise


def _forget_stdout() -> None:
    """Let the interpreter's own flush at its end succeed: it has nowhere to write to."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_with_line(error: DiffcError) -> NoReturn:
    print(f"diffc: {error}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    sys.exit(error.exit_code)


def _end_with_traceback() -> NoReturn:
    traceback.print_exc()
    print(
        f"diffc: this is a bug in diffc (exit code {EXIT_BUG}): please report the lines above",
        file=sys.stderr,
    )
    sys.exit(EXIT_BUG)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _interrupted() -> NoReturn:
    print("diffc: interrupted; the same command goes on from here", file=sys.stderr)
    sys.stderr.flush()
    sys.exit(EXIT_INTERRUPTED)
