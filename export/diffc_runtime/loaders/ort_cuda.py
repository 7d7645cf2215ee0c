"""Engines of ort-cuda: ONNX Runtime on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UnfitEngine
from ..machine import cuda_libraries
from ..pipeline import Denoise
from . import import_library
from .ort_cpu import open_session

ANY_BATCH = True


def load(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    """A session on the GPU in full fp32. Raises UnfitEngine without ONNX Runtime's GPU package."""
    cuda_libraries.preload()
    ort = import_library("onnxruntime", str(info["target"]))
    provider = "CUDAExecutionProvider"
    if provider not in ort.get_available_providers():
        available = ", ".join(ort.get_available_providers())
        raise UnfitEngine(f"built for {provider} (pip install onnxruntime-gpu); here: {available}")
    return open_session(folder, info, threads, [(provider, {"use_tf32": "0"})])
