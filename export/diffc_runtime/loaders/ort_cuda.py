"""Engines of ort-cuda: ONNX Runtime on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UnfitEngine
from ..libraries.ort import CUDA
from ..machine import cuda_libraries
from ..values import Denoise
from . import import_library
from .ort_cpu import open_model

ANY_BATCH = True


def load(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    """Open the engine on the GPU in full fp32.

    Raises:
        UnfitEngine: ONNX Runtime's GPU package is not installed.
    """
    cuda_libraries.preload()
    ort = import_library("onnxruntime", str(info["target"]))
    if CUDA not in ort.get_available_providers():
        available = ", ".join(ort.get_available_providers())
        raise UnfitEngine(f"built for {CUDA} (pip install onnxruntime-gpu); here: {available}")
    return open_model(folder, info, threads, [(CUDA, {"use_tf32": "0"})])
