"""Works in batches for which memory has room: a batch that is too large is halved, down to one row.

The result of a row does not depend on the rows beside it, so a smaller batch gives the same result.
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
    n: int, batch: int, work: Callable[[range], Work[T]], doing: str, *, together: bool = False
) -> Work[list[T]]:
    """Return the results of ``work`` for consecutive ranges of at most ``batch`` of ``n`` rows.

    Args:
        n: The number of rows.
        batch: The largest number of rows at a time.
        work: Processes the rows of a range; after running out of memory it is called again with
            half of them.
        doing: The activity, for messages: "sampling the dense model".
        together: Whether several processes run the batches together (sharding.py), and none can
            halve its own.

    Raises:
        OutOfMemory: There is no room for one row, or for a batch that is not to be halved.
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
        if failure is not None and together:
            raise out_of_memory_error(doing, failure) from failure
        if failure is not None:
            batch = halve_batch(len(rows), doing, failure)
            yield Progress(start, n, f"out of memory: going on with {batch} at a time")
    return parts


def halve_batch(batch: int, doing: str, failure: Exception) -> int:
    """Return half of a batch that did not fit into memory, and free unused memory.

    Args:
        batch: The number of rows that did not fit.
        doing: The activity, for the message.
        failure: The error of the failed attempt.

    Raises:
        OutOfMemory: The batch has one row. The hint says what to do.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if batch > 1:
        return batch // 2
    raise out_of_memory_error(f"{doing}, one at a time", failure) from failure


def out_of_memory_error(doing: str, failure: Exception) -> OutOfMemory:
    """Return the error for work that no smaller batch helps."""
    return error(doing, bytes_asked(str(failure)), torch.cuda.is_available(), hint=HINT)
