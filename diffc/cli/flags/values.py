"""Texts of the command line that become values: paths, seeds, lists of numbers and of sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from diffc.errors import RequestError


def user_path(text: str, name: str) -> Path:
    """The path that a user typed: a shell leaves the ``~`` of ``--out=~/runs`` as it is.

    Args:
        name: the flag or argument, for errors.
    """
    from diffc_export.disks import user_path

    return user_path(text, name)


def path_of(flag: str) -> Callable[[str], Path]:
    """What reads the paths of ``flag``."""

    def read(text: str) -> Path:
        return user_path(text, flag)

    return read


def checked_seed(text: str) -> int:
    """The seed.

    Raises:
        RequestError: no generator takes it.
    """
    seed = whole_number("--seed", text)
    if not 0 <= seed < 2**63:
        raise RequestError(f"--seed {text}: a seed is a whole number from 0 to 2^63 - 1")
    return seed


def whole_number(flag: str, text: str) -> int:
    """12 for '12'.

    Raises:
        RequestError: ``text`` is not a whole number.
    """
    try:
        return int(text)
    except ValueError:
        raise RequestError(f"{flag} {text}: not a whole number such as 12") from None


def number(flag: str, text: str) -> float:
    """0.5 for '0.5'.

    Raises:
        RequestError: ``text`` is not a number.
    """
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"{flag} {text}: not a number such as 0.5") from None


def comma_parts(flag: str, text: str) -> list[str]:
    """['0.2', '0.3'] for '0.2,0.3'; an empty text is one part, which is refused where it is read.

    Raises:
        RequestError: a part of several is empty.
    """
    from diffc.amounts import parts_between_commas

    try:
        return parts_between_commas(text)
    except ValueError as error:
        raise RequestError(f"{flag}: {error}") from None


def price_per_hour(text: str) -> float:
    """0.71 for '0.71' or '0.71/h'.

    Raises:
        RequestError: ``text`` is no price above 0.
    """
    try:
        price = float(text.removesuffix("/h"))
    except ValueError:
        price = 0.0
    if not 0 < price < math.inf:
        raise RequestError(f"--price {text}: not a price of the machine an hour such as 0.71/h")
    return price


def share(flag: str) -> Callable[[str], float]:
    """What reads the shares of ``flag``: 0.3 for '0.3' or '30%'.

    Raises:
        RequestError: the text is neither.
    """

    def read(text: str) -> float:
        from diffc.recipe.words import as_fraction

        try:
            return float(str(as_fraction(text)))
        except ValueError:
            raise RequestError(f"{flag} {text}: not a share such as 0.3 or 30%") from None

    return read


def batch_sizes(text: str) -> list[int]:
    """[1, 4, 8] for '1,4,8'.

    Raises:
        RequestError: ``text`` is not a list of whole numbers.
    """
    parts = comma_parts("--batch", text)
    try:
        return [int(part) for part in parts]
    except ValueError:
        raise RequestError(f"--batch {text}: not a list of whole numbers such as 1,4,8") from None


def input_sizes(text: str) -> list[int | str]:
    """[32, '48x64'] for '32,48x64'.

    Raises:
        RequestError: ``text`` is not a list of sides.
    """
    from diffc.input_size import read_size, size_word

    parts = comma_parts("--resolution", text)
    try:
        return [size_word(read_size(part)) for part in parts]
    except ValueError:
        raise RequestError(
            f"--resolution {text}: not a list of sides",
            hint="a side is 64, or 64x96 (height x width); several are 32,48,64",
        ) from None
