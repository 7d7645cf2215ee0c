"""Engines of openvino: OpenVINO on the processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..pipeline import Array, Denoise
from . import import_library

ANY_BATCH = False


def load(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    """Compiled with static shapes for each batch size when it first comes by, as diffc measures."""
    openvino = import_library("openvino", str(info["target"]))
    core, name = openvino.Core(), info["outputs"][0]["name"]
    # what it was measured with: without them OpenVINO picks bf16 by itself where it is fast
    settings = {**info["details"]["settings"], "INFERENCE_NUM_THREADS": threads}
    requests: dict[int, Any] = {}

    def run(inputs: dict[str, Array]) -> Array:
        batch = len(next(iter(inputs.values())))
        if batch not in requests:
            graph = core.read_model(folder / "model.xml")
            graph.reshape({key: list(array.shape) for key, array in inputs.items()})
            requests[batch] = core.compile_model(graph, "CPU", settings).create_infer_request()
        output: Array = requests[batch].infer(inputs)[name]
        return output

    return run
