"""The processes that torchrun or ``accelerate launch`` started, and the data that they share."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from torch import Tensor

from diffc.errors import RequestError
from diffc.launch import is_launched

PATIENCE = timedelta(hours=12)
"""How long the other processes wait while the first one saves or samples alone. If one dies, the
launcher ends them all long before.
"""
_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def on_cpu() -> bool:
    """True if work runs on CPUs; accelerate joins CPU processes only on request."""
    return not torch.accelerator.is_available()


def process_share() -> tuple[int, int]:
    """Return (rank, number of processes); (0, 1) without a launcher.

    The first call joins the group of processes.

    Raises:
        RequestError: The launcher is configured to shard the model.
    """
    refuse_sharding()
    if not is_launched():
        return 0, 1
    from accelerate import PartialState

    state = PartialState(cpu=on_cpu(), timeout=PATIENCE)
    return state.process_index, state.num_processes


def refuse_sharding() -> None:
    """Refuse a launch that was configured to shard the model: diffc does not shard.

    Raises:
        RequestError: ``accelerate launch`` was configured for sharding.
    """
    for variable, name in _SHARDING.items():
        if os.environ.get(variable, "").lower() in ("1", "true", "yes"):
            raise RequestError(
                f"accelerate was configured for {name}, and diffc shards nothing: every process "
                "holds the whole student, its average and the teacher",
                hint="launch with --multi_gpu, or with torchrun",
            )


def wait_for_all() -> None:
    """Return once every process has called this; at once if there is one process."""
    if process_share()[1] > 1:
        torch.distributed.barrier()


def gather_rows(rows: Tensor, n: int) -> Tensor:
    """Return every process's rows (equal shares) in rank order, cut to ``n``; the same on all."""
    world = process_share()[1]
    if world == 1:
        return rows[:n]
    from accelerate import PartialState

    mine = rows.to(PartialState().device)
    parts = [torch.empty_like(mine) for _ in range(world)]
    torch.distributed.all_gather(parts, mine)
    return torch.cat(parts).cpu()[:n]
