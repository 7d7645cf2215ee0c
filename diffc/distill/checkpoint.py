"""A run's state on disk: what a killed run needs to go on to the same weights.

FOLDER/step-00000200.safetensors holds the weights, the moving average and the optimiser's moments;
step-00000200.json, written after it, holds the step, the run's key, small numbers, and the hash of
the other file. A checkpoint counts only when both are there and agree. Nothing is pickled; files
appear by rename; the last two are kept. A sharded run writes a folder in the file's place
(sharded_checkpoint.py), and either kind of run reads what the other one wrote.

    Checkpoint   step, key, tensors, numbers
    Record       what step-00000200.json says
    save         write one, drop all but the last two
    newest       the newest sound one of this run, and what was found broken on the way
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from diffc.errors import UnavailableError
from diffc_runtime.files import file_digest, new_file

KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``step`` optimiser steps.

    key: identifies the run (options, data, starting weights); another run's are not resumed.
    tensors: name -> tensor. numbers: what JSON holds exactly (ints, floats, lists of them).
    """

    step: int
    key: str
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """What a checkpoint's own JSON file says.

    Attributes:
        path: The JSON file.
        step: After how many optimiser steps.
        files: Name -> sha256 of each file of tensors, beside ``path`` or in the folder of its name.
        numbers: As ``Checkpoint`` has them.
        is_sharded: Whether a sharded run wrote it: its files are in a folder.
        fault: Why it cannot be read; "" where it can.
    """

    path: Path
    step: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, Any] = field(default_factory=dict)
    is_sharded: bool = False
    fault: str = ""

    @property
    def place(self) -> Path:
        """The folder of its files."""
        return self.path.with_suffix("") if self.is_sharded else self.path.parent

    def damage(self, names: Iterable[str]) -> str:
        """Why the files of these ``names`` cannot be used; "" where they can."""
        if self.fault:
            return self.fault
        try:
            wrong = [n for n in names if file_digest(self.place / n) != self.files[n]]
        except OSError as error:
            return str(error)
        return "its hash is not the recorded one" if wrong else ""

    def warning(self, reason: str) -> str:
        """One line for a user whose run goes on without it."""
        return f"checkpoint {self.path.stem} is damaged ({reason}); using the one before"


def save(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write ``checkpoint``; returns its weights file. Raises UnavailableError on a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / stem_of(checkpoint.step)
    weights = stem.with_suffix(".safetensors")
    with _new_file(weights) as part:
        _write_tensors(checkpoint.tensors, part)
        digest = file_digest(part)
    write_record(checkpoint, stem.with_suffix(".json"), {"sha256": digest})
    drop_old(folder, checkpoint)
    return weights


def stem_of(step: int) -> str:
    """The name of a checkpoint, before the endings of its files."""
    return f"step-{step:08d}"


def write_record(checkpoint: Checkpoint, path: Path, files: Mapping[str, object]) -> None:
    """Write a checkpoint's JSON file, with what it says of the ``files`` of tensors."""
    record = {
        "step": checkpoint.step,
        "key": checkpoint.key,
        **files,
        "numbers": dict(checkpoint.numbers),
    }
    with _new_file(path) as part:
        part.write_text(json.dumps(record), encoding="utf-8")


def newest(folder: Path, key: str) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint of the run ``key``, and one line for each broken newer one."""
    broken: list[str] = []
    for record in records(folder, key):
        reason = record.damage(record.files)
        try:
            tensors = {} if reason else _tensors_of(record)
        except (OSError, ValueError) as error:
            reason = str(error)
        if not reason:
            return Checkpoint(record.step, key, tensors, record.numbers), broken
        broken.append(record.warning(reason))
    return None, broken


def records(folder: Path, key: str) -> Iterator[Record]:
    """Yield the records of the run ``key``, the newest first; also those that cannot be read."""
    for path in sorted(folder.glob("step-*.json"), reverse=True):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["key"] != key:
                continue
            files = record.get("files") or {f"{path.stem}.safetensors": record["sha256"]}
            yield Record(path, record["step"], files, record["numbers"], "files" in record)
        except (OSError, ValueError, KeyError, TypeError) as error:
            yield Record(path, fault=str(error))


def _tensors_of(record: Record) -> dict[str, Tensor]:
    if record.is_sharded:
        from diffc.distill.sharded_checkpoint import read_whole

        return read_whole(record.place)
    return _read_tensors(record.path.with_suffix(".safetensors"))


def _write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
    except SafetensorError as error:  # the library hides the OS's error number in its text
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that is flushed to disk and renamed to it.

    Its name is always the same, so that what a killed run left there is written over.
    """
    with (
        write_errors(path.parent),
        new_file(path, flush=True, temporary=path.with_name(f".{path.name}.part")) as part,
    ):
        yield part


@contextlib.contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Say plainly that the disk of ``folder`` takes no checkpoint."""
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"a checkpoint cannot be written to {folder}: {error.strerror or error}",
            hint="checkpoints lie in DIFFC_CACHE: make room there, and the same command goes on "
            "from the last one",
        ) from error


def drop_old(folder: Path, last: Checkpoint) -> None:
    """Keep the last ``KEEP`` of the run of ``last``, which was just written; no other run's go.

    Those of later steps were found broken, or the run would have gone on from them.
    """
    own = [p for p in sorted(folder.glob("step-*.json")) if _key_of(p) == last.key]
    sound = [path for path in own if path.stem <= stem_of(last.step)]
    for path in {*own} - {*sound[-KEEP:]}:
        path.unlink(missing_ok=True)
    for weights in folder.glob("step-*.safetensors"):
        if not weights.with_suffix(".json").exists():
            weights.unlink(missing_ok=True)
    for place in folder.glob("step-*"):
        if place.is_dir() and not place.with_suffix(".json").exists():
            shutil.rmtree(place, ignore_errors=True)
    for part in folder.glob(".step-*.part"):  # of processes that were killed, or had no room
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _key_of(path: Path) -> str | None:
    try:
        key: str = json.loads(path.read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return key
