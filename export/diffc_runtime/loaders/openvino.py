"""Engines of openvino: OpenVINO on the processor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from ..libraries.openvino import FILE, StaticModels
from ..values import Array, Denoise
from . import import_library

ANY_BATCH = False


def load(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    """Open the engine on ``threads`` cores, with the settings that it was measured with."""
    import_library("openvino", str(info["target"]))
    settings = {**info["details"]["settings"], "INFERENCE_NUM_THREADS": threads}
    models, name = StaticModels(folder / FILE, settings), info["outputs"][0]["name"]

    one_at_a_time = Lock()  # a request has one set of inputs, which threads would share

    def run(inputs: dict[str, Array]) -> Array:
        with one_at_a_time:
            request = models.request({key: array.shape for key, array in inputs.items()})
            output: Array = request.infer(inputs)[name]
            return output

    return run
