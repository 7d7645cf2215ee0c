"""The command line: one file per group of verbs, thin: parse, call, show.

app.py       the verbs in the order of ``diffc --help``
command.py   @takes names a verb's flags; Command holds their values
verbs.py     the table of verbs, each imported when it is used
help.py      groups of verbs as typer knows them
verb.py      a verb as typer knows it: help with its options in groups
usage.py     the command line's own errors in diffc's words
places.py    where else a verb can write when a disk is full
flags/       the flag table
stdout.py    stdout is for answers alone
run.py       runs stages for a verb
show.py      tables and JSON
remembered.py  answers of plan and inspect, kept in the cache
shipped_answers.py  those that ship, of the models that ship
estimates.py  what a run of a plan would take
progress.py  what a person sees while stages run
compile.py, search.py, stages.py, inspect.py, bench.py, check.py, report.py
             the verbs of a run, and of what it measured
generate.py, adapt.py, bundle.py, fetch.py, doctor.py, recipes.py, cache.py
             the other verbs

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

_BROKEN_PIPE = 141
"""What a shell calls the end by SIGPIPE; the exit code where there is no such signal."""


def main() -> None:
    """Run a verb: the entry point ``diffc``. A user's mistake ends in a line and an exit code.

    Every other exception is a bug: its traceback is shown, and the exit code is not 1, which means
    that a check failed.
    """
    try:
        _run_verb()
    except SystemExit:
        raise
    except DiffcError as error:
        _end_with_line(error)
    except KeyboardInterrupt:
        _interrupted()
    except BrokenPipeError:
        _end_with_broken_pipe()
    except Exception as error:
        from diffc_export.disks import disk_error

        line = disk_error(error)
        _end_with_line(line) if line is not None else _end_with_traceback(error)
    except BaseException as error:  # libraries in Rust raise their own exceptions when they panic
        _end_with_traceback(error)


def _run_verb() -> None:
    from diffc.lean_imports import make_imports_lean

    make_imports_lean()
    from diffc.cli.app import app
    from diffc.cli.stdout import move_stdout
    from diffc.cli.usage import ClickException, request_error

    _check_working_directory()
    move_stdout()
    signal.signal(signal.SIGTERM, _interrupt)
    # without this, the last garbage collections walk through torch's modules for about a second
    atexit.register(gc.freeze)
    try:
        code = app(args=_typer_arguments(sys.argv[1:]), prog_name="diffc", standalone_mode=False)
    except ClickException as error:
        raise request_error(error) from None
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer would end with 1
            raise end.__context__ from None
        raise
    finally:
        _flush_stdout()
    if code == EXIT_INTERRUPTED:  # typer makes an exit code of KeyboardInterrupt
        raise KeyboardInterrupt
    sys.exit(code if isinstance(code, int) else 0)


def _typer_arguments(arguments: list[str]) -> list[str]:
    """``diffc help VERB`` and ``diffc version`` as the options that they mean; no verb: help."""
    if not arguments or arguments[0] == "help":
        return [*arguments[1:], "--help"]
    return ["--version"] if arguments == ["version"] else arguments


def _check_working_directory() -> None:
    """Raise InputError where the working directory was removed: imports would fail obscurely."""
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(
            f"the working directory cannot be used: {error.strerror}",
            hint="it was moved or removed: change to another folder (cd), and run this again",
        ) from error


def _flush_stdout() -> None:
    """Write the buffer while a failure can still be reported with an exit code."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _forget_stdout()
        raise


def _forget_stdout() -> None:
    """Send stdout to the null device, so that the interpreter's flush at exit succeeds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_with_broken_pipe() -> NoReturn:
    """End as other programs do when the reader of their output, such as ``head``, has ended."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    sys.exit(_BROKEN_PIPE)


def _end_with_line(error: DiffcError) -> NoReturn:
    print(_fitted(f"diffc: {_as_typed(error)}"), file=sys.stderr)
    hint = _hint(error)
    if hint:
        print(_fitted(f"  {hint}"), file=sys.stderr)
    sys.exit(error.exit_code)


def _hint(error: DiffcError) -> str | None:
    """The hint; of a disk, with the flag that the verb has for where it writes."""
    from diffc_export.disks import DiskError

    if not isinstance(error, DiskError):
        return error.hint
    from diffc.cli.places import place_words

    words = place_words(sys.argv[1:])
    return f"{error.cure}, {words}" if words else error.hint


def _fitted(line: str) -> str:
    """The line, broken between words where a terminal shows it; whole for a pipe or a log."""
    if not sys.stderr.isatty():
        return line
    import shutil
    import textwrap

    width = shutil.get_terminal_size().columns
    return "\n".join(
        textwrap.wrap(
            line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    )


def _as_typed(error: DiffcError) -> str:
    """The message, with the flag in place of the recipe's option that the flag has set."""
    key, reason = getattr(error, "key", None), getattr(error, "reason", None)
    if key is None:
        return str(error)
    from diffc.cli.flags import FLAGS
    from diffc.cli.flags.flag import FORMER_NAMES

    typed = {argument.partition("=")[0] for argument in sys.argv}
    typed |= {FORMER_NAMES.get(name, name) for name in typed}
    for flag in FLAGS.values():
        if flag.path and flag.spelling in typed and f"{key}.".startswith(f"{flag.path}."):
            entry = key[len(flag.path) + 1 :]  # of several: a metric's name, or a place in a list
            name = "" if entry.isdecimal() else f" {entry}".rstrip()
            return f"{flag.spelling}{name}: {reason}"
    return str(error)


def _end_with_traceback(error: BaseException) -> NoReturn:
    from diffc_export.discovery import added_code

    traceback.print_exc()
    point = added_code(error)
    whose = f"in {point}, or in how diffc calls it" if point else "in diffc"
    print(
        f"diffc: this is a bug {whose} (exit code {EXIT_BUG}): please report the lines above",
        file=sys.stderr,
    )
    sys.exit(EXIT_BUG)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _interrupted() -> NoReturn:
    from diffc.cli.app import goes_on

    begun = "; without --fresh" * ("--fresh" in sys.argv)  # which begins anew every time
    then = f"{begun or ';'} the same command goes on from here" if goes_on(*sys.argv[1:2]) else ""
    print(f"diffc: interrupted{then}", file=sys.stderr)
    sys.stderr.flush()
    sys.exit(EXIT_INTERRUPTED)
