"""Engines of ort-cpu: ONNX Runtime on the processor; and the session that ort-cuda shares."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UnfitEngine
from ..pipeline import Array, Denoise
from . import import_library

ANY_BATCH = True


def load(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    """A session on ``threads`` cores."""
    return open_session(folder, info, threads, ["CPUExecutionProvider"])


def open_session(
    folder: Path, info: Mapping[str, Any], threads: int, providers: list[Any]
) -> Denoise:
    """A session on the first of ``providers``, and on no other."""
    ort = import_library("onnxruntime", str(info["target"]))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, and said once
    # ONNX Runtime takes UTF-8, also where the locale (LC_ALL=C) reads names as something else
    path = os.fsencode(folder / "model.onnx").decode("utf-8")
    # without a way back: after an error ONNX Runtime would go on with the processor
    session = ort.InferenceSession(path, options, providers=providers, enable_fallback=0)
    _check_provider(session, providers[0])
    session.disable_fallback()
    names = [info["outputs"][0]["name"]]

    def run(inputs: dict[str, Array]) -> Array:
        output: Array = session.run(names, inputs)[0]
        return output

    return run


def _check_provider(session: Any, asked: Any) -> None:
    """Raise UnfitEngine where the session computes with another provider than the one asked for:
    ONNX Runtime takes the processor, silently, where CUDA's libraries do not load."""
    wanted = asked if isinstance(asked, str) else asked[0]
    used = list(session.get_providers())
    if used[:1] != [wanted]:
        raise UnfitEngine(
            f"ONNX Runtime cannot load its {wanted} (CUDA and cuDNN are missing or of another"
            f" version), and would compute with {', '.join(used) or 'nothing'}"
        )
