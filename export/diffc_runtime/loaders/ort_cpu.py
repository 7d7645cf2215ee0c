"""Engines of ort-cpu: ONNX Runtime on the processor; and the call that ort-cuda shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..libraries import ort
from ..values import Array, Denoise
from . import import_library

ANY_BATCH = True


def load(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    """Open the engine on ``threads`` cores."""
    import_library("onnxruntime", str(info["target"]))
    return open_model(folder, info, threads, [ort.CPU])


def open_model(
    folder: Path, info: Mapping[str, Any], threads: int, providers: Sequence[ort.Provider]
) -> Denoise:
    """Open the engine on the first of ``providers``, and on no other."""
    session = ort.open_session(folder / ort.FILE, ort.session_options(threads), providers)
    names = [info["outputs"][0]["name"]]
    first = ort.FirstCalls() if providers[0] == ort.CPU else None

    def run(inputs: dict[str, Array]) -> Array:
        options = None if first is None else first.options(inputs.values())
        output: Array = session.run(names, inputs, options)[0]
        return output

    return run
