"""Engines of trt: TensorRT; and what trt-rtx shares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UnfitEngine
from ..pipeline import Denoise
from . import import_library

ANY_BATCH = False


def load(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    """The engine on the first GPU; ``threads`` has no meaning."""
    return open_plan(folder, info, import_library("tensorrt", str(info["target"])))


def open_plan(folder: Path, info: Mapping[str, Any], library: Any) -> Denoise:
    """One execution context per optimisation profile, device buffers for the largest batch."""
    from ..trt import TensorRtEngine

    return TensorRtEngine(library, _engine_file(folder, info).read_bytes(), info)


def _engine_file(folder: Path, info: Mapping[str, Any]) -> Path:
    """The serialised engine."""
    files = sorted(str(name) for name in info["files"] if name.endswith((".plan", ".engine")))
    if not files:
        raise UnfitEngine(f"{folder} holds no engine file (.plan, .engine)")
    return folder / files[0]
