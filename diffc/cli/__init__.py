"""The command line: one file per group of verbs, thin: parse, call, show.

Nothing here imports torch, numpy or pydantic at the top: ``diffc --help`` has to answer at once.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from types import FrameType

from diffc.errors import EXIT_INTERRUPTED, DiffcError


def main() -> None:
    """The entry point ``diffc``: run a verb, turn what a user did wrong into a line and a code."""
    from diffc.cli.app import app

    signal.signal(signal.SIGTERM, _interrupt)
    # the interpreter's last collections walk through all that torch imported, for about a second
    atexit.register(gc.freeze)
    try:
        app()
    except DiffcError as error:
        print(f"diffc: {error}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _interrupted()
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_INTERRUPTED)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _interrupted() -> None:
    print("diffc: interrupted; the same command goes on from here", file=sys.stderr)
    sys.stderr.flush()
    sys.exit(EXIT_INTERRUPTED)
