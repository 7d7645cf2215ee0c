"""The processes that torchrun or ``accelerate launch`` started, and the data that they share."""

from __future__ import annotations

from datetime import timedelta

import torch
from torch import Tensor

from diffc.launch import check_launcher, is_launched

PATIENCE = timedelta(hours=12)
"""How long the other processes wait while the first one saves or samples alone. If one dies, the
launcher ends them all long before.
"""


def on_cpu() -> bool:
    """True if work runs on CPUs; accelerate joins CPU processes only on request.

    It would take any accelerator that torch knows, and diffc's networks are on no other than CUDA's
    (``precision.best_device``).
    """
    return not torch.cuda.is_available()


def process_share() -> tuple[int, int]:
    """Return (rank, number of processes); (0, 1) without a launcher.

    The first call joins the group of processes.

    Raises:
        RequestError: See ``diffc.launch.check_launcher``.
    """
    check_launcher()
    if not is_launched():
        return 0, 1
    from accelerate import PartialState

    state = PartialState(cpu=on_cpu(), timeout=PATIENCE)
    return state.process_index, state.num_processes


def wait_for_all() -> None:
    """Return once every process has called this; at once if there is one process."""
    if process_share()[1] > 1:
        torch.distributed.barrier()


def shared_text(text: str) -> str:
    """Return the first process's text; every process calls this."""
    shared = [text]
    torch.distributed.broadcast_object_list(shared, src=0)
    return shared[0]


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
