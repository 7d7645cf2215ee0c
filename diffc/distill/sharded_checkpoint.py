"""The state of a sharded run on disk, by torch.distributed.checkpoint, as safetensors.

FOLDER/step-00000200/ holds a file of each process with its parts of every tensor, and where they
belong; step-00000200.json, written last by the first process, is the record of ``checkpoint.py``
with the hash of every file. A process that is killed on the way leaves a folder without a record,
which nobody reads: the run goes on from the checkpoint before it. All processes see one folder.

    save    write one, drop all but the last two
    load    give tensors the values of the newest sound one, whoever wrote it

Any number of processes reads what another number wrote: each takes the rows that it holds now.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffc.data.processes import process_share, wait_for_all
from diffc.data.sharding import write_whole
from diffc.distill.checkpoint import (
    Checkpoint,
    Record,
    drop_old,
    records,
    stem_of,
    write_errors,
    write_record,
)
from diffc_runtime.files import file_digest


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write ``checkpoint``, whose tensors are sharded; every process calls it.

    Raises:
        UnavailableError: The disk takes no more.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save as save_parts

    rank, world = process_share()
    goal = folder / stem_of(checkpoint.step)
    part = goal.with_name(f".{goal.name}.part")
    with write_errors(folder):
        if rank == 0:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        wait_for_all()
        with own_errors():
            writer = HuggingFaceStorageWriter(str(part), save_distributed=True)
            save_parts(dict(checkpoint.tensors), storage_writer=writer)
        own = sorted(part.glob("*.safetensors"))[rank::world]
        digests = _join({path.name: file_digest(path) for path in own})
        if rank == 0:
            record = goal.with_suffix(".json")
            record.unlink(missing_ok=True)  # of another run
            shutil.rmtree(goal, ignore_errors=True)
            part.rename(goal)
            _flush(folder)
            write_record(checkpoint, record, {"files": digests})
            drop_old(folder, checkpoint)
    wait_for_all()


def load(tensors: Mapping[str, Tensor], folder: Path, key: str) -> tuple[Record | None, list[str]]:
    """Read the newest sound checkpoint of the run ``key`` into ``tensors``; every process calls it.

    Args:
        tensors: Name -> tensor, sharded or not.
        folder: Where checkpoints lie.
        key: Of the run.

    Returns:
        The record of the checkpoint, or None where there is none; one line for each broken one.
    """
    broken: list[str] = []
    for record in _of_first(list(records(folder, key))):
        rank, world = process_share()
        reasons = _join({rank: record.damage(sorted(record.files)[rank::world])})
        if any(reasons.values()):
            broken.append(record.warning(next(filter(None, reasons.values()))))
            continue
        if record.is_sharded:
            _load_parts(tensors, record.place)
        else:
            _load_whole(tensors, record.path.with_suffix(".safetensors"))
        return record, broken
    return None, broken


def read_whole(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a sharded checkpoint, for a process that is alone."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load as load_parts

    reader = HuggingFaceStorageReader(str(folder))
    kinds: Mapping[str, Any] = reader.read_metadata().state_dict_metadata
    state = {
        name: torch.empty(kind.size, dtype=kind.properties.dtype) for name, kind in kinds.items()
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as intended
        load_parts(state, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return state


def _load_parts(tensors: Mapping[str, Tensor], folder: Path) -> None:
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load as load_parts

    load_parts(dict(tensors), storage_reader=HuggingFaceStorageReader(str(folder)))


def _load_whole(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A checkpoint of a run that was not sharded: the first process reads, and divides."""
    from safetensors import safe_open

    if process_share()[0] == 0:
        with safe_open(path, framework="pt") as file:
            for name, tensor in tensors.items():
                write_whole(tensor, file.get_tensor(name))
        return
    for tensor in tensors.values():
        write_whole(tensor, torch.empty(tensor.shape, device="meta"))


def _join(mine: dict[Any, Any]) -> dict[Any, Any]:
    """What all processes have, together."""
    every: list[dict[Any, Any]] = [{} for _ in range(process_share()[1])]
    torch.distributed.all_gather_object(every, mine)
    return {name: value for part in every for name, value in sorted(part.items())}


def _of_first(values: list[Record]) -> list[Record]:
    """The first process's list, on all."""
    shared = [values]
    torch.distributed.broadcast_object_list(shared, src=0)
    return shared[0]


@contextmanager
def own_errors() -> Iterator[None]:
    """torch's error of several processes as the error of the disk, or other one, that it tells of.

    It is no Exception, and would pass by whoever waits for one.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        of_disk = [cause for cause in causes if isinstance(cause, OSError)]
        if of_disk:
            raise OSError(str(of_disk[0])) from error
        raise RuntimeError("; ".join(map(str, causes))) from error


def _flush(folder: Path) -> None:
    """Make the names in ``folder`` last; the files were flushed when they were written."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
