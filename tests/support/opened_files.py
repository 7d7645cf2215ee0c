"""Which files a piece of code opens, as the kernel sees it: native libraries open files too."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_OPEN, _IS_FOLDER, _NONBLOCK = 0x20, 0x40000000, os.O_NONBLOCK
_EVENT = struct.Struct("iIII")


class OpenedFiles:
    """Linux's inotify over some folders and all folders in them."""

    def __init__(self, *roots: Path) -> None:
        self._roots = roots
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.inotify_init1(_NONBLOCK)
        self._folders: dict[int, Path] = {}

    def forget(self) -> None:
        """Watch the folders that are there now, and forget what was opened so far."""
        for root in self._roots:
            for folder, _, _ in os.walk(root):
                watch = self._libc.inotify_add_watch(self._file, os.fsencode(folder), _OPEN)
                assert watch >= 0, os.strerror(ctypes.get_errno())
                self._folders[watch] = Path(folder)
        self.names()

    def names(self) -> set[Path]:
        """The files that were opened since, wherever they are now."""
        seen: set[Path] = set()
        while True:
            try:
                data = os.read(self._file, 1 << 16)
            except BlockingIOError:
                return seen
            while data:
                watch, mask, _, length = _EVENT.unpack_from(data)
                name = data[_EVENT.size : _EVENT.size + length].rstrip(b"\0")
                data = data[_EVENT.size + length :]
                if name and not mask & _IS_FOLDER:
                    seen.add(self._folders[watch] / os.fsdecode(name))
