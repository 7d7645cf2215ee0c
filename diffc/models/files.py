"""Reads and checks the files of a model folder without torch: JSON and safetensors headers.

A file that cannot be read is refused, and the message says what it really is: a git-lfs pointer, a
web page, a pickle with another name, JSON that is not UTF-8.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from diffc.errors import InputError, in_short, nearest
from diffc_runtime.json_types import JsonDict, JsonObject

_LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors library
_LFS = b"version https://git-lfs"
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")
_OF_ERRORS = {"error", "errors", "message", "detail", "status", "statusCode", "code", "success"}
"""The keys of the error messages that servers send in place of a file."""
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")
_OTHER_TEXT = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF8)


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file.

    Attributes:
        dtype: The dtype as safetensors writes it (F32, BF16, F8_E4M3, I64).
        shape: The tensor's shape.
        path: The file that holds it; None for one in memory.
    """

    dtype: str
    shape: tuple[int, ...]
    path: Path | None = field(default=None, compare=False)

    @property
    def elements(self) -> int:
        """The number of elements of the tensor."""
        count = 1
        for size in self.shape:
            count *= size
        return count


def read_json(path: Path) -> JsonDict:
    """Return the JSON object in a file.

    Raises:
        InputError: The file cannot be read, or holds no JSON object. The message names the file.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    _refuse_other_content(path, raw[:512])
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"cannot read {path}: {in_short(error)}", hint="it has to be JSON; copy it again"
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object")
    if value and value.keys() <= _OF_ERRORS:
        message = " ".join(str(next(iter(value.values()))).split())[:80]
        raise InputError(
            f"{path} is a server's error message, not the file itself: {message}",
            hint="log in where the model asks for it, and download the file again",
        )
    return value


def nearest_folder(path: Path, others: Iterable[str] = ()) -> str:
    """The folder beside ``path``, or the one of ``others``, whose name is nearest; "" for none.

    Args:
        path: What does not exist.
        others: Names that may be meant where ``path`` is a single name.
    """
    names = [*others] if path.parent == Path() else []
    if path.parent.is_dir():
        names += [one.name for one in path.parent.iterdir() if one.is_dir()]
    close = nearest(path.name, names, n=1)
    return str(path.parent / close[0]) if close else ""


def tensor_entries(path: Path) -> dict[str, TensorEntry]:
    """Return name -> dtype and shape, from the header of a safetensors file.

    Only the header is read: 8 bytes of length, then JSON, whose largest offset must be the size.

    Raises:
        InputError: The file is damaged or truncated.
    """
    header, data_start = _header(path)
    try:
        entries = {
            name: TensorEntry(
                str(entry["dtype"]), tuple(int(size) for size in entry["shape"]), path
            )
            for name, entry in header.items()
        }
        end = data_start + max((int(e["data_offsets"][1]) for e in header.values()), default=0)
    except (TypeError, KeyError, IndexError, ValueError) as error:
        raise InputError(f"{path} has a damaged header", hint="copy the file again") from error
    size = path.stat().st_size
    if end != size:
        raise InputError(
            f"{path} is truncated: its header promises {end:,} bytes, the file has {size:,}",
            hint="download or copy the file again",
        )
    _check_by_library(path)
    return entries


def check_safetensors(path: Path) -> dict[str, tuple[int, ...]]:
    """Return name -> shape, from the header of a safetensors file.

    Raises:
        InputError: The file is damaged or truncated.
    """
    return {name: entry.shape for name, entry in tensor_entries(path).items()}


def _header(path: Path) -> tuple[JsonObject, int]:
    """Return the header without its metadata, and the offset at which the tensors' bytes begin."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            _refuse_other_content(path, file.read(512))
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise InputError(f"{path} is truncated or not a safetensors file ({size:,} bytes)")
            header = json.loads(file.read(length).decode("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} has a damaged header: {in_short(error)}") from error
    if not isinstance(header, dict):
        raise InputError(f"{path} has a damaged header: it is not a JSON object")
    header.pop("__metadata__", None)
    return header, 8 + length


def _check_by_library(path: Path) -> None:
    """Refuse what the safetensors library refuses: unknown dtypes, offsets that fit no shape."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        reason = in_short(str(error).strip().splitlines()[0])
        raise InputError(f"{path} is damaged: {reason}", hint="copy the file again") from error


def _refuse_other_content(path: Path, start: bytes) -> None:
    """Refuse a file whose first bytes show that its content is not what its name says."""
    if start.startswith(_LFS):
        raise InputError(
            f"{path} is a git-lfs pointer, not the file itself",
            hint="run `git lfs pull` in the model's folder, or download the file again",
        )
    if start.lstrip().lower().startswith(_PAGES):
        raise InputError(
            f"{path} is a web page, not the file itself",
            hint="the download got a login or an error page: download the file again",
        )
    # a safetensors header of 640 bytes, say, begins like a pickle: by its length, then by a brace
    if path.suffix == ".safetensors" and start.startswith(_PICKLES) and start[8:9] != b"{":
        raise InputError(
            f"{path} is a pickle under the name of a safetensors file",
            hint="convert it to safetensors, or rename it to .bin and pass --allow-pickle",
        )
    if path.suffix == ".json" and start.startswith(_OTHER_TEXT):
        kind = "UTF-16" if start[:4] != codecs.BOM_UTF32_LE else "UTF-32"
        kind = "UTF-8 with a byte order mark" if start[:3] == codecs.BOM_UTF8 else kind
        raise InputError(
            f"{path} is {kind}, not plain UTF-8, and no library reads it",
            hint=f"write it again as UTF-8 without a byte order mark ({_conversion(kind, path)})",
        )


def _conversion(kind: str, path: Path) -> str:
    if kind.startswith(("UTF-16", "UTF-32")):
        return f"iconv -f {kind} -t UTF-8 {path.name}"
    return f"sed -i '1s/^\\xEF\\xBB\\xBF//' {path.name}"
