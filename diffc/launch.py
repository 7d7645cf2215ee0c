"""The launch that this process belongs to, as torchrun and ``accelerate launch`` describe it.

Clusters leave single variables of a launch in the shells that they provide. An incomplete
description does not count as a launch: it needs a rank below a number of processes above one, and
an address.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from diffc.errors import RequestError, UnavailableError

T = TypeVar("T")
_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")
_OPEN_MPI = tuple(
    f"{kind}_COMM_WORLD_{part}"
    for kind in ("OMPI", "MV2")
    for part in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
)
_OTHER_MPI = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
_DESCRIPTION = (*_TORCHRUN, *_OPEN_MPI, *_OTHER_MPI)
"""The variables that accelerate takes for a launch."""
_REFUSED = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}
_FSDP = "ACCELERATE_USE_FSDP"
_POLL_SECONDS, _WARNING_SECONDS = 0.2, 60.0
_SILENCE_SECONDS, _PATIENCE_SECONDS = 600.0, 12 * 3600.0
"""How long a process waits for the first one: without a sign of it, and with one."""


def is_launched() -> bool:
    """True if this is one of several processes of one launch."""
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    return size > 1 and 0 <= rank < size and bool(os.environ.get("MASTER_ADDR"))


def process_rank() -> int:
    """Return the number of this process in its launch; 0 without a launch."""
    return _number("RANK") if is_launched() else 0


def process_count() -> int:
    """Return how many processes this launch has; 1 without a launch."""
    return _number("WORLD_SIZE") if is_launched() else 1


def wait_for_first(
    look: Callable[[], T | None], sign: Path, *, what: str, where: Path, hint: str
) -> T:
    """Return what the first process of the launch leaves in a folder that all processes share.

    When that process fails, the launch ends, and with it this process.

    Args:
        look: Returns None until it is there.
        sign: A path that shows, once it exists, that the first process uses the same folder.
        what: The stage that it is of.
        where: The folder.
        hint: Which folder must be shared.

    Raises:
        UnavailableError: It does not come.
    """
    silence = (
        f"process {process_rank()} waits for the first one's '{what}' and sees no sign of it in "
        f"{where}"
    )
    started, warned = time.monotonic(), False
    while (there := look()) is None:
        time.sleep(_POLL_SECONDS)
        waited, has_sign = time.monotonic() - started, sign.exists()
        if waited > (_PATIENCE_SECONDS if has_sign else _SILENCE_SECONDS):
            raise UnavailableError(silence, hint=hint)
        if not (warned or has_sign) and waited > _WARNING_SECONDS:
            warned = True
            warnings.warn(f"{silence}: {hint}", stacklevel=2)
    return there


def _number(name: str) -> int:
    text = os.environ.get(name, "").strip()
    return int(text) if text.isdecimal() else -1


@contextmanager
def without_leftovers() -> Iterator[None]:
    """Remove variables that describe no launch from the environment, for the time of the block.

    accelerate would wait for the other processes that these variables mention.
    """
    if is_launched() or _is_started_by_mpi():
        yield
        return
    leftovers = {name: os.environ.pop(name) for name in _DESCRIPTION if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(leftovers)


def _is_started_by_mpi() -> bool:
    """True if ``accelerate launch`` started this by mpirun, which has its own variable names."""
    sizes = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
    several = any(_number(name) > 1 for name in sizes)
    return several and bool(os.environ.get("MASTER_ADDR"))


def fsdp_is_configured() -> bool:
    """Whether the configuration of ``accelerate launch`` asks for FSDP."""
    return _is_on(_FSDP)


def checkpointing_is_configured() -> bool:
    """Whether accelerate's configuration of FSDP asks for checkpointing of activations."""
    return fsdp_is_configured() and _is_on("FSDP_ACTIVATION_CHECKPOINTING")


def check_launcher() -> None:
    """Refuse a launch that was configured for what diffc does not do.

    Raises:
        RequestError: ``accelerate launch`` was configured for DeepSpeed, Megatron-LM, the former
            FSDP, or weights that wait in the memory of the host.
    """
    for variable, name in _REFUSED.items():
        if _is_on(variable):
            raise RequestError(
                f"accelerate was configured for {name}, and diffc shards by FSDP2 alone",
                hint="launch with torchrun and --shard on, or configure accelerate for FSDP with "
                "fsdp_version: 2",
            )
    if not fsdp_is_configured():
        return
    if os.environ.get("FSDP_VERSION", "2") != "2":
        raise RequestError(
            f"accelerate was configured for version {os.environ['FSDP_VERSION']} of FSDP, and "
            "diffc shards by FSDP2 alone",
            hint="fsdp_version: 2 in accelerate's configuration",
        )
    if _is_on("FSDP_OFFLOAD_PARAMS"):
        raise RequestError(
            "accelerate was configured to keep sharded weights in the memory of the host, and "
            "diffc keeps them on the GPUs",
            hint="fsdp_offload_params: false in accelerate's configuration",
        )


@contextmanager
def without_fsdp() -> Iterator[None]:
    """Hide from accelerate that FSDP is configured, for the time of the block.

    diffc shards its networks itself (data/sharding.py), and has accelerate do the rest as without.
    """
    value = os.environ.pop(_FSDP, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[_FSDP] = value


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")
