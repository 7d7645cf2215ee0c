"""A run's state on disk: what a killed run needs to go on to the same weights.

FOLDER/step-00000200.safetensors holds the weights, the moving average and AdamW's moments;
step-00000200.json, written after it, holds the step, the run's key, small numbers, and the hash of
the other file. A checkpoint counts only when both are there and agree. Nothing is pickled; files
appear by rename; the last two are kept.

    Checkpoint   step, key, tensors, numbers
    save         write one, drop all but the last two
    newest       the newest sound one of this run, and what was found broken on the way
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from diffc.errors import UnavailableError

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


def save(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write ``checkpoint``; returns its weights file. Raises UnavailableError on a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"step-{checkpoint.step:08d}"
    weights = stem.with_suffix(".safetensors")
    with _written(weights) as part:
        _write_tensors(checkpoint.tensors, part)
        digest = _sha256(part)
    record = {
        "step": checkpoint.step,
        "key": checkpoint.key,
        "sha256": digest,
        "numbers": dict(checkpoint.numbers),
    }
    with _written(stem.with_suffix(".json")) as part:
        part.write_text(json.dumps(record), encoding="utf-8")
    _drop_old(folder, checkpoint.key)
    return weights


def newest(folder: Path, key: str) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint of the run ``key``, and one line for each broken newer one."""
    broken: list[str] = []
    for sidecar in sorted(folder.glob("step-*.json"), reverse=True):
        try:
            record = json.loads(sidecar.read_text(encoding="utf-8"))
            if record["key"] != key:
                continue
            weights = sidecar.with_suffix(".safetensors")
            if _sha256(weights) != record["sha256"]:
                raise ValueError("its hash is not the recorded one")
            tensors = _read_tensors(weights)
        except (OSError, ValueError, KeyError, TypeError) as error:
            broken.append(f"checkpoint {sidecar.stem} is damaged ({error}); using the one before")
            continue
        return Checkpoint(record["step"], key, tensors, record["numbers"]), broken
    return None, broken


def _write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
    except SafetensorError as error:  # the library hides the OS's error number in its text
        if "os error" in str(error).lower():
            raise OSError(str(error)) from error
        raise


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


@contextlib.contextmanager
def _written(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that is flushed to disk and renamed to it."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UnavailableError(
            f"a checkpoint cannot be written to {path.parent}: {error}",
            hint="checkpoints lie in DIFFC_CACHE: make room there, and the same command goes on "
            "from the last one",
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _drop_old(folder: Path, key: str) -> None:
    """Keep this run's last ``KEEP``; another run's are not touched."""
    own = [p for p in sorted(folder.glob("step-*.json")) if _key_of(p) == key]
    for sidecar in own[:-KEEP]:
        sidecar.unlink(missing_ok=True)
    for weights in folder.glob("step-*.safetensors"):
        if not weights.with_suffix(".json").exists():
            weights.unlink(missing_ok=True)


def _key_of(sidecar: Path) -> str | None:
    try:
        found: str = json.loads(sidecar.read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found
