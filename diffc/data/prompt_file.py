"""Reads a text file of prompts, one a line; without torch."""

from __future__ import annotations

import codecs
from pathlib import Path

from diffc.data.image_folders import check_file
from diffc.errors import InputError

_WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""The longer marks come first: UTF-32's begins with UTF-16's."""
_MARK = "\ufeff"
_TAKES = "a text file, one prompt a line"
_SAVE = "save it as UTF-8 text"


def read_prompts(path: Path, flag: str = "--prompts") -> list[str]:
    """Return the lines of a UTF-8 file that are not empty.

    Only a line feed ends a line (a carriage return before it is dropped): other characters that
    Unicode calls line ends may stand in a prompt. A byte order mark does not belong to a prompt.

    Args:
        path: The file.
        flag: The option that named it, for messages.

    Raises:
        InputError: There is no such file, it has another encoding, or it holds no prompts.
    """
    check_file(path, flag, _TAKES)
    lines = [line.strip(f"{_MARK} \t\r") for line in _text(path, flag).split("\n")]
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise InputError(f"{flag}: there are no prompts in {path}", hint="one prompt a line")
    return prompts


def _text(path: Path, flag: str) -> str:
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except OSError as error:
        raise InputError(f"{flag}: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        wide = next((name for mark, name in _WIDE_MARKS.items() if data.startswith(mark)), None)
        line = data.count(b"\n", 0, error.start) + 1
        what = f"{path} is {wide} text" if wide else f"line {line} of {path} is not UTF-8 text"
        raise InputError(f"{flag}: {what}", hint=_SAVE) from error
    if "\0" in text:  # UTF-16 without its mark is valid UTF-8 for plain letters
        raise InputError(f"{flag}: {path} holds zero bytes, as UTF-16 text does", hint=_SAVE)
    return text
