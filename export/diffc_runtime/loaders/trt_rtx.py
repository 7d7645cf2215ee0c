"""Engines of trt-rtx: TensorRT for RTX."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..values import Denoise
from .trt import open_plan

ANY_BATCH = False


def load(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    """Open the engine on the first GPU; ``threads`` has no meaning."""
    return open_plan(folder, info, "tensorrt_rtx")
