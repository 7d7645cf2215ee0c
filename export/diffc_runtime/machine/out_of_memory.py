"""Out of memory, in whichever words a runtime says it: one error with the bytes asked for and free.

    out_of_memory(doing, on_gpu)   around a call: its failure for want of memory becomes OutOfMemory
    explained(text, doing, on_gpu) the same from a log, for libraries that raise nothing

The words are those of torch, ONNX Runtime, TensorRT, cuBLAS, cuDNN and CUDA itself. How much was
asked for is read from them; how much is free is asked of the device right after.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import DiffcError, OutOfMemory, UnavailableError

_SAYS = re.compile(
    r"out of memory|OutOfMemory|failed to allocate memory|can't allocate memory|bad_alloc"
    r"|bad allocation|_ALLOC_FAILED|User allocator error",
    re.IGNORECASE,
)
_ASKED = re.compile(
    r"buffer of size (?P<a>\d+)"  # ONNX Runtime
    r"|GPU memory \((?P<b>\d+) bytes\)"  # TensorRT
    r"|Requested size was (?P<c>\d+) bytes"
    r"|allocating (?P<d>\d+)-byte"
    r"|tried to allocate (?P<e>[\d.]+) ?(?P<unit>bytes|[KMGT]iB)",  # torch
    re.IGNORECASE,
)
_UNITS = {"bytes": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def is_out_of_memory(failure: BaseException) -> bool:
    """Whether memory ran out, on a GPU or a CPU, in whichever library."""
    named = isinstance(failure, MemoryError) or "OutOfMemory" in type(failure).__name__
    return named or says_so(str(failure))


def says_so(text: str) -> bool:
    """Whether these are words for memory that ran out."""
    return bool(_SAYS.search(text))


def bytes_asked(text: str) -> int | None:
    """What the last allocation that failed asked for; None where the words do not say."""
    largest = None
    for match in _ASKED.finditer(text):
        unit = _UNITS[(match["unit"] or "bytes").lower()]
        number = next(value for value in match.group("a", "b", "c", "d", "e") if value)
        largest = int(float(number.rstrip(".")) * unit)
    return largest


def error(
    doing: str,
    asked: int | None,
    on_gpu: bool,
    memory: tuple[int, int] | None = None,
    hint: str = "a smaller --batch needs less",
) -> OutOfMemory:
    """Return the error for work that did not get the memory that it wanted.

    Args:
        doing: The work, in words that follow "while".
        asked: The bytes that it wanted; None: not known.
        on_gpu: True for a GPU's memory.
        memory: (free, total) bytes; None: as the device says now.
        hint: What would need less.
    """
    free, total = memory or (gpu_memory() if on_gpu else host_memory()) or (None, None)
    parts = []
    if asked is not None:
        parts.append(f"{size(asked)} asked for")
    if free is not None and total:
        parts.append(f"{size(free)} of {size(total)} free")
    where = "GPU memory" if on_gpu else "memory"
    message = f"out of {where} while {doing}" + (f": {', '.join(parts)}" if parts else "")
    return OutOfMemory(message, asked=asked, free=free, hint=_hint(hint, on_gpu))


def _hint(hint: str, on_gpu: bool) -> str:
    if on_gpu:
        from . import nvml

        processes = nvml.others()
        if processes:
            hint += f"; {nvml.words(processes)}"
    return hint


def explained(text: str, doing: str, on_gpu: bool) -> OutOfMemory | None:
    """The error when ``text`` speaks of memory that ran out; None when it does not."""
    return error(doing, bytes_asked(text), on_gpu) if says_so(text) else None


@contextmanager
def out_of_memory(doing: str, on_gpu: bool) -> Iterator[None]:
    """Turn a failure for want of memory inside the block into OutOfMemory; others pass through."""
    try:
        yield
    except DiffcError:
        raise
    except Exception as failure:
        if not is_out_of_memory(failure):
            raise
        raise error(doing, bytes_asked(str(failure)), on_gpu) from None


def gpu_memory() -> tuple[int, int] | None:
    """(free, total) bytes of the GPU in use, or of the MIG slice; None where it is not known."""
    from . import cuda, nvml

    with suppress(UnavailableError):
        return cuda.memory()
    return nvml.device_memory()


def host_memory() -> tuple[int, int] | None:
    """(free, total) bytes of this machine, from /proc/meminfo; None where there is none."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    if "MemAvailable" not in kib or "MemTotal" not in kib:
        return None
    return kib["MemAvailable"] << 10, kib["MemTotal"] << 10


def size(count: int) -> str:
    """14.4 GiB, 512 MiB or 20 KiB."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count} bytes"
