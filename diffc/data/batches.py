"""Work in batches that memory has room for: a batch that has none is halved, down to one row.

What is computed of a row does not depend on the rows beside it, so a smaller batch gives the same.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from diffc.errors import OutOfMemory
from diffc_export.events import Progress, Work
from diffc_runtime.machine.out_of_memory import bytes_asked, error, is_out_of_memory

T = TypeVar("T")
HINT = "a smaller --resolution needs less; so does a machine or a GPU with more memory"


def run_in_batches(
    n: int, batch: int, work: Callable[[range], Work[T]], doing: str
) -> Work[list[T]]:
    """The results of ``work`` for consecutive ranges of at most ``batch`` of ``n`` rows.

    Args:
        work: does the rows of a range; it is called again with half of them when it runs out of
            memory.
        doing: what is done, for messages: "sampling the dense model".

    Raises:
        OutOfMemory: when there is no room for one row.
    """
    parts: list[T] = []
    start = 0
    while start < n:
        rows = range(start, min(n, start + batch))
        failure: Exception | None = None
        try:
            parts.append((yield from work(rows)))
            start = rows.stop
        except (RuntimeError, MemoryError) as caught:
            if not is_out_of_memory(caught):
                raise
            failure = caught.with_traceback(None)  # its frames hold the tensors of the batch
        if failure is not None:
            batch = halve_batch(len(rows), doing, failure)
            yield Progress(start, n, f"out of memory: going on with {batch} at a time")
    return parts


def halve_batch(batch: int, doing: str, failure: Exception) -> int:
    """Half of a batch that memory had no room for; what is no longer used is freed.

    Raises OutOfMemory for a batch of one, with what to do.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if batch > 1:
        return batch // 2
    raise out_of_memory_error(f"{doing}, one at a time", failure) from failure


def out_of_memory_error(doing: str, failure: Exception) -> OutOfMemory:
    """The error for work that no smaller batch helps."""
    return error(doing, bytes_asked(str(failure)), torch.cuda.is_available(), hint=HINT)
