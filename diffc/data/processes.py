"""The processes that torchrun or ``accelerate launch`` started, and what they share."""

from __future__ import annotations

import os

import torch
from torch import Tensor


def on_cpu() -> bool:
    """Whether work runs on CPUs; accelerate joins CPU processes only when it is told so."""
    return not torch.accelerator.is_available()


def process_share() -> tuple[int, int]:
    """(rank, number of processes), joining the group on the first call; (0, 1) when alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0, 1
    from accelerate import PartialState

    state = PartialState(cpu=on_cpu())
    return state.process_index, state.num_processes


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
