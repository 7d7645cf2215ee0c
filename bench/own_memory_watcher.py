"""Writes the peak of another process's own memory into a file, until that process has ended.

    python -I own_memory_watcher.py PID FILE

Own memory is resident memory beyond the pages of mapped files. FILE has 8 bytes, an integer in
little-endian order, which the other process may set back.
"""

from __future__ import annotations

import mmap
import sys
import time
from pathlib import Path

SECONDS = 0.01
_SIZE = 8


def watch(pid: int, file: Path) -> None:
    """Keep the largest number of bytes in ``file`` until the process ``pid`` has ended."""
    with file.open("r+b") as opened:
        peak = mmap.mmap(opened.fileno(), _SIZE)
    while (size := own_memory(pid)) is not None:
        if size > int.from_bytes(peak[:_SIZE], "little"):
            peak[:_SIZE] = size.to_bytes(_SIZE, "little")
        time.sleep(SECONDS)


def own_memory(pid: int) -> int | None:
    """Bytes of own memory; None where the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")]
    return sizes[0] if sizes else None


if __name__ == "__main__":
    watch(int(sys.argv[1]), Path(sys.argv[2]))
