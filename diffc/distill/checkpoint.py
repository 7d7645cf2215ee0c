"""A run's state on disk: what a killed run needs to go on to the same weights.

FOLDER/step-00000200.safetensors holds the weights, the moving average and the optimiser's moments;
step-00000200.json, written after it, holds the step, the run's key, small numbers, and the hash of
the other file. A checkpoint counts only when both are there and agree. Nothing is pickled; files
appear by rename; the last two are kept.

    Checkpoint   step, key, tensors, numbers
    save         write one, drop all but the last two
    newest       the newest sound one of this run, and what was found broken on the way
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
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


def save(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write ``checkpoint``; returns its weights file. Raises UnavailableError on a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"step-{checkpoint.step:08d}"
    weights = stem.with_suffix(".safetensors")
    with _new_file(weights) as part:
        _write_tensors(checkpoint.tensors, part)
        digest = file_digest(part)
    record = {
        "step": checkpoint.step,
        "key": checkpoint.key,
        "sha256": digest,
        "numbers": dict(checkpoint.numbers),
    }
    with _new_file(stem.with_suffix(".json")) as part:
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
            if file_digest(weights) != record["sha256"]:
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
def _new_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that is flushed to disk and renamed to it.

    Its name is always the same, so that what a killed run left there is written over.
    """
    try:
        with new_file(path, flush=True, temporary=path.with_name(f".{path.name}.part")) as part:
            yield part
    except OSError as error:
        raise UnavailableError(
            f"a checkpoint cannot be written to {path.parent}: {error}",
            hint="checkpoints lie in DIFFC_CACHE: make room there, and the same command goes on "
            "from the last one",
        ) from error


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
        key: str = json.loads(sidecar.read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return key
