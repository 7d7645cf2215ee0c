"""A history: a .jsonl of medians, a line for each figure that was ever saved or checked.

rows_of           a check's figures as lines       rows_of_baseline   a stored baseline's
append_history    add lines, whole or not at all   read_history       the lines that can be read
history_csv       the same as CSV
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from diffc.errors import InputError
from diffc.gate.result import CheckResult, Figure
from diffc_runtime.json_types import JsonDict, JsonObject

if TYPE_CHECKING:
    from diffc.gate.baseline import Baseline

COLUMNS = (
    "created",
    "fingerprint",
    "model",
    "target",
    "precision",
    "batch",
    "p50_ms",
    "n",
    "peak_bytes",
    "engine_bytes",
    "ssim",
    "verdict",
    "source",
)


@dataclass(frozen=True)
class History:
    """The content of a history's file.

    Attributes:
        path: The file.
        rows: The lines that can be read.
        damaged: The numbers of the other lines.
    """

    path: Path
    rows: list[JsonDict]
    damaged: tuple[int, ...] = ()

    @property
    def notes(self) -> list[str]:
        """One sentence for each line that is left out."""
        return [f"{self.path}, line {number} is damaged: it is left out" for number in self.damaged]


def read_history(path: Path) -> History:
    """Read a history's rows; the other lines are read even where one is damaged.

    Two objects on one line are two rows: a file without a newline at its end led to such lines.

    Raises:
        InputError: There is no file, or no line of it can be read.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a history", hint="give a .jsonl of diffc check")
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        raise InputError(f"there is no history at {path}") from None
    rows: list[JsonDict] = []
    damaged: list[int] = []
    for number, line in enumerate(lines, 1):
        try:
            rows += _rows_in(line.decode("utf-8-sig"))  # editors on Windows put a mark in front
        except (ValueError, KeyError, TypeError, RecursionError):
            damaged.append(number)
    if damaged and not rows:
        raise InputError(
            f"{path}, line {damaged[0]} is damaged, and no other line can be read",
            hint="give the .jsonl that diffc check --history or diffc baseline save wrote",
        )
    return History(path, rows, tuple(damaged))


def _rows_in(line: str) -> list[JsonDict]:
    """The rows of one line; none for an empty line.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: The line holds something else.
    """
    rows, decoder, rest = [], json.JSONDecoder(), line.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        row = {name: value[name] for name in COLUMNS}
        if not _is_drawable(row):
            raise ValueError(rest[:end])
        rows.append(row)
        rest = rest[end:].lstrip()
    return rows


def _is_drawable(row: JsonObject) -> bool:
    """True for a row with a date, and a time that is a finite number or None."""
    time = row["p50_ms"]
    is_number = isinstance(time, int | float) and math.isfinite(time)
    return isinstance(row["created"], str) and (time is None or is_number)


def append_history(path: Path, rows: Sequence[JsonObject]) -> None:
    """Add ``rows`` as whole lines at the end; what was there stays as it is.

    Raises OSError when the disk refuses; the file is then as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    # unbuffered, so that one write is one whole line while other processes append
    with path.open("a+b", buffering=0) as file, _locked(file):
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            text = text if file.read(1) == b"\n" else b"\n" + text
        try:
            if file.write(text) != len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(end)
            raise


@contextmanager
def _locked(file: BinaryIO) -> Iterator[None]:
    """One process at a time adds lines, where the file system has locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
    except (ImportError, OSError):
        yield
        return
    yield  # closing the file unlocks it


def rows_of(result: CheckResult) -> list[JsonDict]:
    """One line for each engine and batch size whose latency was measured."""
    ssim = _value(result, "SSIM", "samples", None)
    return [
        {
            "created": result.created,
            "fingerprint": result.environment["fingerprint"],
            "model": result.candidate.model,
            "target": figure.target,
            "precision": figure.precision,
            "batch": figure.batch,
            "p50_ms": figure.candidate,
            "n": figure.pairs,
            "peak_bytes": _memory(result, figure),
            "engine_bytes": _value(result, "engine size", figure.target, figure.precision),
            "ssim": ssim,
            "verdict": figure.verdict,
            "source": result.candidate.path,
        }
        for figure in result.figures
        if figure.name == "latency p50" and figure.candidate is not None
    ]


def rows_of_baseline(baseline: Baseline) -> list[JsonDict]:
    """One line of medians per figure of a stored baseline."""
    ssim = ((baseline.quality or {}).get("ssim") or {}).get("mean")
    return [
        {
            "created": baseline.created,
            "fingerprint": baseline.environment["fingerprint"],
            "model": baseline.model,
            **figures.model_dump(include={"target", "precision", "batch", "p50_ms"}),
            "n": len(figures.samples_ms),
            "peak_bytes": figures.peak_bytes,
            "engine_bytes": figures.engine_bytes,
            "ssim": ssim,
            "verdict": "saved",
            "source": baseline.name,
        }
        for figures in baseline.figures
    ]


def history_csv(rows: Sequence[JsonObject]) -> str:
    """The same as CSV, with a line of names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _memory(result: CheckResult, figure: Figure) -> float | None:
    place = (figure.target, figure.precision, figure.batch)
    peaks = (
        one.candidate
        for one in result.figures
        if "memory" in one.name and (one.target, one.precision, one.batch) == place
    )
    return next(peaks, None)


def _value(result: CheckResult, name: str, target: str, precision: str | None) -> float | None:
    for figure in result.figures:
        if (
            figure.name == name
            and figure.target == target
            and precision in (None, figure.precision)
        ):
            return figure.candidate
    return None
