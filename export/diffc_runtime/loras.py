"""LoRAs that a call picks by name: an engine with their changes in its weights, opened beside it.

    loras = EngineLoras(engine_folder, Path("loras"), threads)
    denoise = loras.denoise("style")            # the engine's call, with loras/style.npz

A LoRA's file says where in the engine's files each weight lies that it changes, and has the two
factors of the change, W' = W + B A. The engine is opened once for each LoRA, from a copy of its
files with the changed weights, and stays open: a call with a LoRA costs what a call without costs,
for the same graph is optimised around the changed weights as around the first.

    about      JSON: format, the files' sha256, and (layer, file, offset, rows, columns) of a change
    left.I     (rows, r) in float32
    right.I    (r, columns): left.I @ right.I is what is added, as the weight lies in the file
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from .array_files import DAMAGE
from .engine_folder import LORA_SUFFIX
from .engines import load_engine, read_info
from .errors import BadRequest, UnfitEngine, value_words
from .files import new_file, remove_with
from .machine import cpu
from .values import Array, Denoise

FORMAT = 1
MOST_OPEN = 4
"""How many LoRAs an engine stays open with; the one whose last use is longest ago is closed."""
_ABOUT = "about"


@dataclass(frozen=True)
class WeightChange:
    """The change of one weight.

    Attributes:
        layer: The layer's name, for errors.
        file: The engine's file that the weight lies in, as float32, least significant byte first.
        offset: Where it begins, in bytes.
        left, right: (rows, r) and (r, columns); their product is added to the weight's
            rows x columns numbers.
    """

    layer: str
    file: str
    offset: int
    left: Array
    right: Array

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight as it lies in the file."""
        return int(self.left.shape[0]), int(self.right.shape[1])


@dataclass(frozen=True)
class EngineLora:
    """A LoRA of one engine.

    Attributes:
        files: The engine's files that it changes -> their sha256.
        changes: The changes.
    """

    files: Mapping[str, str]
    changes: tuple[WeightChange, ...]

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        about = {
            "format": FORMAT,
            "files": dict(self.files),
            "places": [[one.layer, one.file, one.offset, *one.shape] for one in self.changes],
        }
        arrays = {_ABOUT: np.array(json.dumps(about))}
        for i, one in enumerate(self.changes):
            arrays |= {f"left.{i}": one.left, f"right.{i}": one.right}
        with new_file(path) as part, part.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]


def read_lora(path: Path) -> EngineLora:
    """Read a LoRA's file.

    Raises:
        UnfitEngine: The file is damaged, or has a format that this runtime cannot read.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored[_ABOUT]))
            if about["format"] != FORMAT:
                raise UnfitEngine(
                    f"{path} has format {about['format']}, this runtime reads {FORMAT}"
                )
            changes = tuple(
                _change(place, stored[f"left.{i}"], stored[f"right.{i}"])
                for i, place in enumerate(about["places"])
            )
            return EngineLora({str(k): str(v) for k, v in about["files"].items()}, changes)
    except UnfitEngine:
        raise
    except (*DAMAGE, KeyError, TypeError, AttributeError) as error:
        raise UnfitEngine(
            f"{path} is damaged ({type(error).__name__}): adapt the LoRA again"
        ) from None


def _change(place: list[Any], left: Array, right: Array) -> WeightChange:
    """Return one change. Raises ValueError where its numbers do not fit together."""
    layer, file, offset, rows, columns = place
    fits = left.ndim == right.ndim == 2 and left.shape[1] == right.shape[0]
    if not fits or (left.shape[0], right.shape[1]) != (rows, columns) or int(offset) < 0:
        raise ValueError(layer)
    if left.dtype != np.float32 or right.dtype != np.float32:
        raise ValueError(layer)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise ValueError(layer)
    return WeightChange(str(layer), str(file), int(offset), left, right)


class LoraEngine:
    """An engine's call with a LoRA; its files go with it.

    Args:
        folder: The engine's folder.
        path: The LoRA's file.
        threads: For engines on a processor.

    Raises:
        UnfitEngine: The LoRA is damaged or of another engine, or the engine cannot be opened, or
            copied.
    """

    def __init__(self, folder: Path, path: Path, threads: int) -> None:
        info, lora = read_info(folder), read_lora(path)
        if any(info["files"].get(file) != digest for file, digest in lora.files.items()):
            raise UnfitEngine(
                f"{path} is of another engine than {folder}: adapt the LoRA again "
                "(diffc adapt LORA OUT --engines)"
            )
        try:
            copy = Path(tempfile.mkdtemp(prefix="diffc-lora-"))
            # some runtimes read the file again for another batch size
            remove_with(self, copy)
            for file in info["files"]:
                _place(folder / file, copy / file, whole=file in lora.files)
            _add(lora, copy, path)
        except OSError as error:
            raise UnfitEngine(
                f"cannot copy the engine for the LoRA '{path.stem}' to the folder for temporary "
                f"files (TMPDIR): {error.strerror or error}"
            ) from None
        self._run = load_engine(copy, info, threads)

    def __call__(self, inputs: dict[str, Array]) -> Array:
        """Run the engine: its inputs by name (B, ...) -> its output (B, ...)."""
        return self._run(inputs)


class EngineLoras:
    """The LoRAs of an engine.

    Args:
        engine: The engine's folder.
        folder: The folder of the LoRAs' files; it may be missing.
        threads: For engines on a processor; by default all cores.

    Attributes:
        wrap: What is put around the call of each engine that is opened.
    """

    def __init__(self, engine: Path, folder: Path, threads: int | None = None) -> None:
        self._engine, self._folder = engine, folder
        self._threads = int(threads or cpu.cores())
        self._engines: OrderedDict[str, Denoise] = OrderedDict()
        self._opening = Lock()
        self.wrap: Callable[[Denoise], Denoise] = _as_it_is

    @property
    def names(self) -> list[str]:
        """The LoRAs that are there."""
        return sorted(path.stem for path in self._folder.glob(f"*{LORA_SUFFIX}"))

    def denoise(self, name: object) -> Denoise:
        """Return the engine's call with a LoRA; it opens the engine where it is not open so.

        Raises:
            BadRequest: There is no such LoRA.
            UnfitEngine: Its file is damaged or of another engine, or the engine cannot be opened.
        """
        with self._opening:
            if not isinstance(name, str) or name not in self._engines:
                name = self._check_name(name)
                while len(self._engines) >= MOST_OPEN:
                    self._engines.popitem(last=False)
                path = self._folder / f"{name}{LORA_SUFFIX}"
                self._engines[name] = self.wrap(LoraEngine(self._engine, path, self._threads))
            self._engines.move_to_end(name)
            return self._engines[name]

    def _check_name(self, name: object) -> str:
        """Return the name of a LoRA that is there. Raises BadRequest for another."""
        names = self.names  # read again each time: a LoRA may have been adapted meanwhile
        if isinstance(name, str) and name in names:
            return name
        none = "there is none (diffc adapt LORA OUT --engines adds one)"
        there = f"there are {', '.join(names)}" if names else none
        raise BadRequest(f"unknown LoRA {value_words(name)}: {there}")


def _as_it_is(denoise: Denoise) -> Denoise:
    return denoise


def _place(source: Path, goal: Path, whole: bool) -> None:
    """Put a file of the engine into the copy: a copy of it, or the file itself if it stays so."""
    if not whole:
        try:
            os.link(source, goal)
            return
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(source, goal)


def _add(lora: EngineLora, copy: Path, path: Path) -> None:
    """Add a LoRA's changes to the weights in a copy of the engine's files."""
    for change in lora.changes:
        file, (rows, columns) = copy / change.file, change.shape
        if (
            change.file not in lora.files
            or file.stat().st_size < change.offset + 4 * rows * columns
        ):
            raise UnfitEngine(f"{path} is damaged: {change.layer} lies in none of its files")
        weight = np.memmap(file, "<f4", "r+", change.offset, (rows, columns))
        weight += change.left @ change.right
        weight.flush()
        del weight


def find_weight(content: Any, weight: Array, near: int = 0) -> tuple[int, bool] | None:
    """Return where a weight lies in an engine's file, and whether it lies there transposed.

    Args:
        content: The file's bytes, which may be mapped.
        weight: (rows, columns) in float32.
        near: Where to look first: files have weights in the order of their layers, mostly.
    """
    for start, transposed in ((near, False), (near, True), (0, False), (0, True)):
        needle = np.ascontiguousarray(weight.T if transposed else weight, "<f4").tobytes()
        for offset in _places(content, needle, start):
            return offset, transposed
    return None


def _places(content: Any, needle: bytes, start: int) -> Iterator[int]:
    """Yield where ``needle`` lies; its beginning is looked for first, which is quick."""
    head = needle[:64]
    at = content.find(head, start)
    while at >= 0:
        if content[at : at + len(needle)] == needle:
            yield at
        at = content.find(head, at + 1)
