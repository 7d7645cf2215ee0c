"""What can go wrong, and the exit code each case ends with.

    DiffcError
    ├── RequestError        2   the request is wrong: a flag, a recipe key, a ratio out of reach
    ├── InputError          2   what was given is wrong: a model, weights, a data folder, an engine
    │   └── DamagedEngine   2   an engine folder whose files are not what was written
    ├── UnavailableError    2   something that is not installed, or that this machine does not have
    │   ├── OutOfMemory     2   a device, or the machine, has not the memory that was asked for
    │   └── UnfitEngine     2   an engine that cannot run here
    ├── CheckFailed         1   a check ran and failed: parity, quality, a regression
    ├── Inconclusive        3   a check ran and could not decide
    └── NotComparable       4   two runs that cannot be compared, or a machine unfit to judge

Each is a user's matter: one line (what was asked for, what exists, what to do) and an exit code,
never a traceback. Anything else that is raised is a bug in diffc: it shows its traceback and ends
with exit code 70, so that no caller takes it for a check that failed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_SHOWN = 30
EXIT_OK = 0
EXIT_BUG = 70
"""As sysexits.h's EX_SOFTWARE: an error inside the program itself."""
EXIT_INTERRUPTED = 130


class DiffcError(Exception):
    """Base of every error that diffc raises on purpose.

    ``str(error)`` is one line without a trailing full stop; ``hint`` says what to do next and is
    printed on a line of its own.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if hint and hasattr(self, "add_note"):  # Python 3.11: a traceback shows the hint too
            self.add_note(hint)


class RequestError(DiffcError):
    """What was asked for cannot be done: a wrong flag, recipe key or ratio."""


class InputError(DiffcError):
    """What was given cannot be used: a model, weights, a data folder, an engine."""


class DamagedEngine(InputError):
    """A file of an engine folder is missing, or is not what was written."""


class UnavailableError(DiffcError):
    """Something needed is not installed, or this machine does not have it."""


class OutOfMemory(UnavailableError):
    """Memory ran out. asked, free: bytes of the allocation that failed, and free after; or None."""

    def __init__(
        self, message: str, *, asked: int | None, free: int | None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.asked = asked
        self.free = free


class CheckFailed(DiffcError):
    """A check ran to its end and failed (parity, quality, a latency regression)."""

    exit_code = 1


class Inconclusive(DiffcError):
    """A check ran to its end and could not decide."""

    exit_code = 3


class NotComparable(DiffcError):
    """Two runs cannot be compared, or this machine is too noisy to judge them."""

    exit_code = 4


_ALIKE, _ALIKE_WITHIN = 0.6, 0.4
"""difflib's ratio from which words are close, and where the letters of one are all in the other."""
_PARTS = re.compile(r"[-_.]")


def nearest(word: str, known: Iterable[str], n: int = 3) -> list[str]:
    """The known words closest to ``word``, best first; empty when none is close.

    A word is close where most letters are the same, in the same order, and where all its letters
    are another's or the other way round: ``tensorrt`` means ``trt``. A word that is a part of
    names, as ``ort`` is of ``ort-cpu``, means these; one of which there is the plural or the
    singular alone means that before.
    """
    names = list(known)
    other_number = [name for name in names if word and name in (f"{word}s", word.removesuffix("s"))]
    if other_number and word not in names:
        return other_number[:n]
    parts = [name for name in names if word in _PARTS.split(name) and word != name]
    if word and parts:
        return parts[:n]
    close = difflib.get_close_matches(word, names, n=n, cutoff=_ALIKE)
    likely = [name for name in names if _is_within(name, word) or _is_within(word, name)]
    return close or difflib.get_close_matches(word, likely, n=n, cutoff=_ALIKE_WITHIN)


def _is_within(short: str, long: str) -> bool:
    """Whether the letters of ``short`` all stand in ``long``, in their order."""
    letters = iter(long)
    return all(letter in letters for letter in short)


def known_names(word: str, known: Iterable[str]) -> str:
    """What to say to a name that does not exist: the nearest that does, and all that do.

    Of very many names, only the nearest are said; where none is near, the first ones.
    """
    names = list(known)
    close, many = nearest(word, names), len(names) > _SHOWN
    if close and many:
        return f"did you mean {' or '.join(close)}?"
    meant = f"did you mean {close[0]}? " if close else ""
    more = f", and {len(names) - _SHOWN} more" if many else ""
    return f"{meant}known: {', '.join(names[:_SHOWN])}{more}"


def unknown(kind: str, word: object, known: Iterable[str]) -> RequestError:
    """The error for a name that does not exist, with those that do.

    What is no text at all, as a caller in Python may give it, is no name either.
    """
    return RequestError(
        f"unknown {kind} {value_words(word)}", hint=known_names(str(word), sorted(known))
    )


def in_short(words: object, longest: int = 200) -> str:
    """What another library raised, as one line of at most ``longest`` characters.

    The place where more was cut off has a mark.
    """
    line = " ".join(str(words).split())
    return line if len(line) <= longest else f"{line[: longest - 4].rstrip()} ..."


_LONGEST_VALUE = 80


def value_words(value: object) -> str:
    """What a caller gave, as Python writes it: of an array or a long text the beginning."""
    return f"'{value}'" if _is_plain(value) else in_short(repr(value), _LONGEST_VALUE)


def _is_plain(value: object) -> bool:
    """True for a text of one line that is shown whole, whatever quotes it has."""
    return isinstance(value, str) and len(value) <= _LONGEST_VALUE and value.isprintable()


class BadRequest(RequestError, ValueError):
    """What was asked of a sampling loop cannot be done: steps, seed, images, conditions."""


class UnfitEngine(UnavailableError, RuntimeError):
    """The engine cannot run here: built for another machine, a missing runtime, a damaged file."""
