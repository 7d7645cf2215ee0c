"""An engine folder, as diffc's targets write it -> a call on numpy arrays.

    engine = open_engine(Path("engine"))
    output = engine.run({"sample": x, "timestep": t})

engine.json says for which runtime, versions and machine the engine was built. One that does not
fit here is refused before anything is loaded, with both sides named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import loaders
from .checks import is_whole_number
from .engine_folder import check_files, read_engine_json
from .errors import BadRequest, InputError, UnfitEngine, value_words
from .fit import misfit
from .keywords import checked_keywords
from .machine import cpu
from .values import Array, Denoise, Input

_MOST_THREADS = 1024


@dataclass(frozen=True)
class Engine:
    """A loaded engine.

    info: engine.json's content. batches: (smallest, largest) for each range of batch sizes that it
    serves, smallest first. run: inputs by name (B, ...) -> its first output (B, ...).
    """

    info: Mapping[str, Any]
    inputs: tuple[Input, ...]
    batches: tuple[tuple[int, int], ...]
    run: Denoise


def read_info(folder: Path) -> dict[str, Any]:
    """Return the content of engine.json.

    Raises:
        UnfitEngine: The file is missing or damaged, or has a format that this runtime cannot read.
    """
    try:
        return read_engine_json(folder)
    except InputError as error:
        raise UnfitEngine(str(error)) from None


@checked_keywords()
def open_engine(folder: Path, threads: int | None = None) -> Engine:
    """Load the engine in ``folder``.

    Args:
        threads: For engines on a processor; by default all cores.

    Raises:
        UnfitEngine: It was built for another machine or version, its runtime is not installed or
            cannot load it, or a file was cut or altered or cannot be read.
        BadRequest: ``threads`` is no whole number from 1 to 1024.
    """
    if threads is not None:
        _check_threads(threads)
    info = read_info(folder)
    reason = misfit(info)
    if reason:
        raise UnfitEngine(f"{folder}: {reason}")
    try:
        check_files(folder, info["files"])
    except InputError as error:
        raise UnfitEngine(str(error)) from None
    run = load_engine(folder, info, int(threads or cpu.cores()))
    return Engine(info, specs(info), batches(info), run)


def _check_threads(threads: object) -> None:
    """Refuse what no runtime can start: one of them ends the process where it tries."""
    if not is_whole_number(threads) or not 1 <= threads <= _MOST_THREADS:  # type: ignore[operator]
        words = f"threads must be 1 or more, up to {_MOST_THREADS}, not {value_words(threads)}"
        raise BadRequest(words)


def load_engine(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    """Return the call of an engine whose files lie in ``folder``; they are not checked again.

    Args:
        folder: The folder of the engine's files.
        info: The content of its engine.json.
        threads: For engines on a processor.

    Raises:
        UnfitEngine: The runtime is not installed, or cannot load it.
    """
    try:
        run = loaders.find_loader(info["target"]).load(folder, info, threads)
    except (UnfitEngine, BadRequest):
        raise
    except Exception as error:
        raise _in_one_line("cannot load the engine", error) from None
    return _said_in_one_line(run)


def specs(info: Mapping[str, Any]) -> tuple[Input, ...]:
    """The engine's inputs."""
    return tuple(
        Input(
            item["name"],
            tuple(item["shape"]),
            item["dtype"],
            item["kind"],
            tuple((height, width) for height, width in item.get("sizes") or ()),
        )
        for item in info["inputs"]
    )


def batches(info: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    """(smallest, largest) of each range of batch sizes that the engine serves; empty: any.

    An engine of several resolutions is served at the resolution of its inputs' shapes.
    ONNX Runtime takes every batch up to the largest, whichever the engine was measured at.
    """
    profiles = (next(iter(p.values())) for p in info["profiles"] if serves(p, info))
    ranges = sorted({(item["min"][0], item["max"][0]) for item in profiles})
    served = loaders.why_none(info["target"]) is None
    if ranges and served and loaders.find_loader(info["target"]).ANY_BATCH:
        return ((1, max(high for _, high in ranges)),)
    return tuple(ranges)


def serves(profile: Mapping[str, Any], info: Mapping[str, Any]) -> bool:
    """Return True if a profile takes the shapes of the engine's inputs; the batch is ignored."""
    shapes = {item["name"]: item["shape"] for item in info.get("inputs", ())}
    return all(
        low <= size <= high
        for name, span in profile.items()
        for low, size, high in zip(
            span["min"][1:], shapes.get(name, ()), span["max"][1:], strict=False
        )
    )


def _said_in_one_line(run: Denoise) -> Denoise:
    """``run``, whose errors (a label that is no class, memory that ran out) are one line each."""

    def call(inputs: dict[str, Array]) -> Array:
        try:
            return run(inputs)
        except (UnfitEngine, BadRequest):
            raise
        except Exception as error:
            raise _in_one_line("the engine could not run", error) from None

    return call


def _in_one_line(what: str, error: Exception) -> UnfitEngine:
    """Return a runtime's exception as an error of ours, without the paths of its files."""
    message = " ".join(str(error).split()).rpartition("Status Message: ")[2]
    message = re.sub(r"\s*\S*/\S+\.\w+(:\d+)?", "", message).strip()
    return UnfitEngine(f"{what}: {message[:300] or type(error).__name__}")
