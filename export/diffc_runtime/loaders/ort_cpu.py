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
    path, on_cpu = folder / ort.FILE, providers[0] == ort.CPU
    options = ort.session_options(threads, path if on_cpu else None)
    session = ort.open_session(path, options, providers)
    names, first = [info["outputs"][0]["name"]], ort.FirstCalls()

    def run(inputs: dict[str, Array]) -> Array:
        def call(options: Any) -> Any:
            return session.run(names, inputs, options)

        output: Array = (first.call(inputs.values(), call) if on_cpu else call(None))[0]
        return output

    return run
