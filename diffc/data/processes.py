"""The processes that torchrun or ``accelerate launch`` started, and what they share."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from torch import Tensor

from diffc.errors import RequestError
from diffc.launch import is_launched

PATIENCE = timedelta(hours=12)
"""How long the others wait where the first process saves or samples alone; when one dies, the
launcher ends them all, long before."""
_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}


def on_cpu() -> bool:
    """Whether work runs on CPUs; accelerate joins CPU processes only when it is told so."""
    return not torch.accelerator.is_available()


def process_share() -> tuple[int, int]:
    """(rank, number of processes), joining the group on the first call; (0, 1) when alone.

    Raises RequestError under a launcher that wants the model sharded.
    """
    refuse_sharding()
    if not is_launched():
        return 0, 1
    from accelerate import PartialState

    state = PartialState(cpu=on_cpu(), timeout=PATIENCE)
    return state.process_index, state.num_processes


def refuse_sharding() -> None:
    """Raise RequestError where ``accelerate launch`` was told to shard: nothing here is."""
    for variable, name in _SHARDING.items():
        if os.environ.get(variable, "").lower() in ("1", "true", "yes"):
            raise RequestError(
                f"accelerate was configured for {name}, and diffc shards nothing: every process "
                "holds the whole student, its average and the teacher",
                hint="launch with --multi_gpu, or with torchrun",
            )


def wait_for_all() -> None:
    """Return once every process has come here; at once when alone."""
    if process_share()[1] > 1:
        torch.distributed.barrier()


def gather_rows(rows: Tensor, n: int) -> Tensor:
    """Every process's rows (equal shares) in rank order, cut to ``n``; the same on all."""
    world = process_share()[1]
    if world == 1:
        return rows[:n]
    from accelerate import PartialState

    mine = rows.to(PartialState().device)
    parts = [torch.empty_like(mine) for _ in range(world)]
    torch.distributed.all_gather(parts, mine)
    return torch.cat(parts).cpu()[:n]
