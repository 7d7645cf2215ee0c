"""A TensorRT (or TensorRT for RTX) engine as a call on numpy arrays.

There is one execution context for each optimisation profile that serves the resolution of the
engine's inputs; the buffers on the GPU are allocated once, for the largest batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import cuda
from .engines import serves
from .errors import UnfitEngine
from .json_types import JsonObject
from .values import Array


class TensorRtEngine:
    """A call from inputs by name (B, ...) to the first output (B, ...)."""

    def __init__(self, trt: Any, plan: bytes, info: JsonObject) -> None:
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise UnfitEngine(
                f"TensorRT {trt.__version__} cannot load this engine here; it was built by"
                f" {', '.join(f'{k} {v}' for k, v in info['versions'].items())}"
            )
        self._stream = cuda.Stream()
        self._profiles = {
            index: next(iter(profile.values()))
            for index, profile in enumerate(info["profiles"])
            if serves(profile, info)
        }
        self._contexts = {index: self._context(index) for index in self._profiles}
        self._output = info["outputs"][0]
        self._inputs = [item["name"] for item in info["inputs"]]
        most = max(item["max"][0] for item in self._profiles.values())
        tensors = [*info["inputs"], *info["outputs"]]
        self._buffers = {item["name"]: cuda.Buffer(most * _row_bytes(item)) for item in tensors}

    def _context(self, profile: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None:  # TensorRT prints the reason on stderr only
            raise UnfitEngine(
                f"TensorRT could not make an execution context for profile {profile}: mostly, the"
                " GPU's memory does not suffice"
            )
        context.set_optimization_profile_async(profile, self._stream.handle)
        return context

    def __call__(self, inputs: dict[str, Array]) -> Array:
        batch = len(inputs[self._inputs[0]])
        context = self._contexts[self._profile(batch)]
        for name in self._inputs:
            array = np.ascontiguousarray(inputs[name])
            context.set_input_shape(name, array.shape)
            self._buffers[name].write(array, self._stream)
        for name, buffer in self._buffers.items():
            context.set_tensor_address(name, buffer.address)
        if not context.execute_async_v3(self._stream.handle):
            raise UnfitEngine(f"TensorRT could not run the engine at batch {batch}")
        output = np.empty((batch, *self._output["shape"]), self._output["dtype"])
        self._buffers[self._output["name"]].read(output, self._stream)
        self._stream.wait()
        return output

    def _profile(self, batch: int) -> int:
        """Return the profile whose optimum is ``batch``, else the first that serves it."""
        profiles = self._profiles.items()
        fits = [i for i, p in profiles if p["min"][0] <= batch <= p["max"][0]]
        best = [i for i in fits if self._profiles[i]["opt"][0] == batch]
        if not fits:
            raise UnfitEngine(f"the engine was not built for batch {batch}")
        return (best or fits)[0]


def _row_bytes(item: JsonObject) -> int:
    size: int = math.prod(item["shape"]) * np.dtype(item["dtype"]).itemsize
    return size
