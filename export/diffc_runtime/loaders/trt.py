"""Engines of trt: TensorRT; and the call on numpy arrays that trt-rtx shares.

There is one execution context for each optimisation profile that serves the usual resolution, and
one for another profile once a call has its shapes. The buffers on the GPU are allocated once, for
the largest batch at the usual resolution, and again where a call needs more.
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
        self._library, self._profiles = library, info["profiles"]
        self._inputs = [item["name"] for item in info["inputs"]]
        self._outputs = {item["name"]: item["dtype"] for item in info["outputs"]}
        self._contexts: dict[int, TrtContext] = {}
        self._buffers: dict[str, tuple[int, cuda.Buffer]] = {}
        usual = [i for i, profile in enumerate(self._profiles) if serves(profile, info)]
        with _refusals():
            self._engine = open_engine(library, plan, failure, "loading the engine")
            self._stream = cuda.Stream()
            for index in usual:
                self._context(index)
        most = max(next(iter(self._profiles[index].values()))["max"][0] for index in usual)
        for item in (*info["inputs"], *info["outputs"]):
            self._buffer(item["name"], most * _row_bytes(item))

    def __call__(self, inputs: dict[str, Array]) -> Array:
        with self._one_at_a_time:
            return self._run({name: np.ascontiguousarray(inputs[name]) for name in self._inputs})

    def _run(self, inputs: dict[str, Array]) -> Array:
        index = self._profile(inputs)
        with _refusals():
            context = self._context(index)
            for name, array in inputs.items():
                context.set_shape(name, array.shape)
                self._buffer(name, array.nbytes).write(array, self._stream)
            outputs = {
                name: np.empty(context.output_shape(name), dtype)
                for name, dtype in self._outputs.items()
            }
            for name, array in (*inputs.items(), *outputs.items()):
                context.place(name, self._buffer(name, array.nbytes))
            context.enqueue()
        name, output = next(iter(outputs.items()))
        self._buffer(name, output.nbytes).read(output, self._stream)
        return output

    def _context(self, index: int) -> TrtContext:
        """Return a profile's context, which is made when it is first asked for."""
        if index not in self._contexts:
            self._contexts[index] = TrtContext(
                self._library, self._engine, self._stream, index, "running the engine"
            )
        return self._contexts[index]

    def _buffer(self, name: str, size: int) -> cuda.Buffer:
        """Return a tensor's memory on the GPU, of ``size`` bytes or more."""
        if name not in self._buffers or self._buffers[name][0] < size:
            self._buffers.pop(name, None)  # before there is a larger one
            self._buffers[name] = size, cuda.Buffer(size)
        return self._buffers[name][1]

    def _profile(self, inputs: Mapping[str, Array]) -> int:
        """Return the profile whose optimum is the inputs' batch, else the first that takes them."""
        batch = len(next(iter(inputs.values())))
        fits = [i for i, profile in enumerate(self._profiles) if _takes(profile, inputs)]
        best = [i for i in fits if next(iter(self._profiles[i].values()))["opt"][0] == batch]
        if not fits:
            shapes = ", ".join(f"{name} {array.shape[1:]}" for name, array in inputs.items())
            raise UnfitEngine(f"the engine was not built for batch {batch} of {shapes}")
        return (best or fits)[0]


def _takes(profile: Mapping[str, Any], inputs: Mapping[str, Array]) -> bool:
    return all(
        low <= size <= high
        for name, span in profile.items()
        for low, size, high in zip(span["min"], inputs[name].shape, span["max"], strict=True)
    )


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
