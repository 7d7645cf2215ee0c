"""Texts of the command line that become values: paths, seeds, lists of numbers and of sizes."""

from __future__ import annotations

from pathlib import Path

from diffc.errors import RequestError


def user_path(text: str) -> Path:
    """The path that a user typed: a shell leaves the ``~`` of ``--out=~/runs`` as it is."""
    from diffc_export.disks import user_path

    return user_path(text)


def checked_seed(value: int | None) -> int | None:
    """The seed itself.

    Raises:
        RequestError: no generator takes it.
    """
    if value is not None and not 0 <= value < 2**63:
        raise RequestError(f"--seed {value}: a seed is a whole number from 0 to 2^63 - 1")
    return value


def batch_sizes(text: str) -> list[int]:
    """[1, 4, 8] for '1,4,8'.

    Raises:
        RequestError: ``text`` is not a list of whole numbers.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(f"--batch {text}: not a list of whole numbers such as 1,4,8") from None


def input_sizes(text: str) -> list[int | str]:
    """[32, '48x64'] for '32,48x64'.

    Raises:
        RequestError: ``text`` is not a list of sides.
    """
    from diffc.input_size import read_size, size_word

    try:
        return [size_word(read_size(part)) for part in text.split(",")]
    except ValueError:
        raise RequestError(
            f"--resolution {text}: not a list of sides",
            hint="a side is 64, or 64x96 (height x width); several are 32,48,64",
        ) from None
