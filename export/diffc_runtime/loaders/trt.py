"""Engines of trt: TensorRT; and the call on numpy arrays that trt-rtx shares.

There is one execution context for each optimisation profile that serves the resolution of the
engine's inputs; the buffers on the GPU are allocated once, for the largest batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ..engines import serves
from ..errors import InputError, UnfitEngine
from ..json_types import JsonObject
from ..libraries.tensorrt import TrtContext, TrtLibrary, load_library, open_engine
from ..machine import cuda
from ..values import Array, Denoise
from . import import_library

ANY_BATCH = False


def load(folder: Path, info: Mapping[str, Any], threads: int) -> Denoise:
    """Open the engine on the first GPU; ``threads`` has no meaning."""
    return open_plan(folder, info, "tensorrt")


def open_plan(folder: Path, info: Mapping[str, Any], module: str) -> Denoise:
    """Open the engine in ``folder`` with TensorRT's ``module``."""
    import_library(module, str(info["target"]))
    return ServedTrtEngine(load_library(module), _engine_file(folder, info).read_bytes(), info)


def _engine_file(folder: Path, info: Mapping[str, Any]) -> Path:
    """Return the path of the serialised engine."""
    files = sorted(str(name) for name in info["files"] if name.endswith((".plan", ".engine")))
    if not files:
        raise UnfitEngine(f"{folder} holds no engine file (.plan, .engine)")
    return folder / files[0]


class ServedTrtEngine:
    """A call from inputs by name (B, ...) to the first output (B, ...).

    Raises:
        UnfitEngine: The library does not take the engine, or cannot run it.
    """

    def __init__(self, library: TrtLibrary, plan: bytes, info: JsonObject) -> None:
        builders = ", ".join(f"{name} {number}" for name, number in info["versions"].items())
        version = library.trt.__version__
        failure = f"TensorRT {version} cannot load this engine here; it was built by {builders}"
        self._one_at_a_time = Lock()  # the buffers on the GPU are everyone's
        self._output = info["outputs"][0]
        self._inputs = [item["name"] for item in info["inputs"]]
        with _refusals():
            self._engine = open_engine(library, plan, failure, "loading the engine")
            self._stream = cuda.Stream()
            self._profiles = {
                index: next(iter(profile.values()))
                for index, profile in enumerate(info["profiles"])
                if serves(profile, info)
            }
            self._contexts = {
                index: TrtContext(library, self._engine, self._stream, index, "running the engine")
                for index in self._profiles
            }
        most = max(item["max"][0] for item in self._profiles.values())
        tensors = [*info["inputs"], *info["outputs"]]
        self._buffers = {item["name"]: cuda.Buffer(most * _row_bytes(item)) for item in tensors}

    def __call__(self, inputs: dict[str, Array]) -> Array:
        with self._one_at_a_time:
            return self._run(inputs)

    def _run(self, inputs: dict[str, Array]) -> Array:
        batch = len(inputs[self._inputs[0]])
        context = self._contexts[self._profile(batch)]
        with _refusals():
            for name in self._inputs:
                array = np.ascontiguousarray(inputs[name])
                context.set_shape(name, array.shape)
                self._buffers[name].write(array, self._stream)
            for name, buffer in self._buffers.items():
                context.place(name, buffer)
            context.enqueue()
        output = np.empty((batch, *self._output["shape"]), self._output["dtype"])
        self._buffers[self._output["name"]].read(output, self._stream)
        return output

    def _profile(self, batch: int) -> int:
        """Return the profile whose optimum is ``batch``, else the first that serves it."""
        profiles = self._profiles.items()
        fits = [i for i, p in profiles if p["min"][0] <= batch <= p["max"][0]]
        best = [i for i in fits if self._profiles[i]["opt"][0] == batch]
        if not fits:
            raise UnfitEngine(f"the engine was not built for batch {batch}")
        return (best or fits)[0]


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what the library refuses inside the block into UnfitEngine."""
    try:
        yield
    except InputError as error:
        raise UnfitEngine(str(error)) from None


def _row_bytes(item: JsonObject) -> int:
    size: int = math.prod(item["shape"]) * np.dtype(item["dtype"]).itemsize
    return size
