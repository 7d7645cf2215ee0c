"""A TensorRT engine on a GPU: device buffers, one stream, the call captured as a CUDA graph.

diffc_runtime.libraries.tensorrt opens the engine and its contexts; here their calls are bound and
timed. Times are GPU events around the call alone, transfers left out, as trtexec reports since 11.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from diffc_export.targets import shapes, trt_builder
from diffc_export.targets.base import Array, Arrays
from diffc_export.targets.engine import EngineInfo
from diffc_export.targets.trt_builder import Flavour
from diffc_runtime import machine
from diffc_runtime.errors import DiffcError, OutOfMemory
from diffc_runtime.libraries.tensorrt import KernelCache, TrtContext, TrtLibrary, open_engine
from diffc_runtime.machine import cuda


def inspect(flavour: Flavour, data: Any) -> str:
    """Return the inspector's JSON for a serialised engine."""
    library = trt_builder.library(flavour)
    trt = library.trt
    opened = _open(flavour, library, data, "the engine just built")
    inspector = opened.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _open(flavour: Flavour, library: TrtLibrary, data: Any, name: str) -> Any:
    failure, doing = f"{flavour.target} cannot open {name}", f"{flavour.target} opens {name}"
    return open_engine(library, data, failure, doing)


class TrtEngine:
    """See diffc_export.targets.base.LoadedEngine."""

    def __init__(self, flavour: Flavour, path: Path, info: EngineInfo) -> None:
        cuda.device_count()
        self._library = trt_builder.library(flavour)
        self._engine = _open(flavour, self._library, path.read_bytes(), str(path))
        self.info = info.with_details(timed_by=cuda.EVENTS)
        cache_file = kernel_cache_path(flavour) if flavour.ahead_of_time else None
        self._cache = None if cache_file is None else KernelCache(self._engine, cache_file)
        self._stream = cuda.Stream()
        self._calls: dict[shapes.Call, TrtCall] = {}

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Run once; the context and buffers for each set of shapes are kept."""
        call = shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        if call not in self._calls:
            self._calls[call] = self.bind(inputs)
        bound = self._calls[call]
        bound.write(inputs)
        bound.run()
        return bound.outputs()

    def bind(self, inputs: Arrays) -> TrtCall:
        """Return a call with a context of its own and the inputs on the device, captured."""
        bound = self._bind(inputs, capture=True)
        why = {} if bound.captured else {"not_captured": bound.not_captured}
        self.info = self.info.with_details(captured=bound.captured, **why)
        return bound

    def bind_uncaptured(self, inputs: Arrays) -> TrtCall:
        """Return the same without a CUDA graph: to find out what the graph is worth."""
        return self._bind(inputs, capture=False)

    def allocator_bytes(self) -> int:
        """Return the execution context's memory, as TensorRT plans it."""
        return int(self._engine.device_memory_size_v2)

    def _bind(self, inputs: Arrays, capture: bool) -> TrtCall:
        call = shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        profile = shapes.profile_index(self.info.profiles, call)
        doing = shapes.call_words(self.info.target, inputs)
        context = TrtContext(self._library, self._engine, self._stream, profile, doing, self._cache)
        bound = TrtCall(context, self._stream, self.info, inputs, capture)
        if self._cache is not None:
            self._cache.save()
        return bound

    def close(self) -> None:
        """Free the buffers, then the engine."""
        for bound in self._calls.values():
            bound.free()
        self._calls.clear()
        self._engine = None


def kernel_cache_path(flavour: Flavour) -> Path:
    """Return the kernels' file in diffc's cache folder: one per library version and GPU."""
    from diffc_export.cache import cache_folder

    gpus = machine.gpu.gpus()
    gpu = gpus[0].sm if gpus else "none"
    name = f"{flavour.target}-{trt_builder.version(flavour)}-{gpu}.kernels"
    return cache_folder() / name


class TrtCall:
    """One context, its buffers, and its captured call.

    Args:
        context: The context that runs it.
        stream: Where it runs.
        info: The engine's description.
        inputs: The first inputs, by name.
        capture: Whether the call is captured as a CUDA graph.

    Attributes:
        not_captured: Why a call that was to be captured is enqueued each time instead.
    """

    def __init__(
        self,
        context: TrtContext,
        stream: cuda.Stream,
        info: EngineInfo,
        inputs: Arrays,
        capture: bool = True,
    ) -> None:
        self._stream, self._context = stream, context
        self._inputs = {name: cuda.Buffer(array.nbytes) for name, array in inputs.items()}
        for name, array in inputs.items():
            context.set_shape(name, tuple(array.shape))
            context.place(name, self._inputs[name])
        self._host = {
            spec.name: np.empty(context.output_shape(spec.name), spec.dtype)
            for spec in info.outputs
        }
        self._outputs = {name: cuda.Buffer(array.nbytes) for name, array in self._host.items()}
        for name, buffer in self._outputs.items():
            context.place(name, buffer)
        self.write(inputs)
        context.enqueue()  # the first call may allocate, which a capture forbids
        stream.wait()
        self.not_captured = ""
        self._graph = self._capture() if capture else None

    @property
    def captured(self) -> bool:
        """Whether ``run`` launches a CUDA graph."""
        return self._graph is not None

    def _capture(self) -> cuda.CudaGraph | None:
        try:
            return cuda.CudaGraph(self._stream, self._context.enqueue)
        except OutOfMemory:
            raise
        except DiffcError as error:  # some layers cannot be captured: the call itself has just run
            self.not_captured = str(error)
            return None

    def write(self, inputs: Arrays) -> None:
        """Copy new inputs of the same shapes to the device."""
        for name, array in inputs.items():
            self._inputs[name].write(np.ascontiguousarray(array), self._stream)

    def run(self) -> float:
        """Launch the graph once (or enqueue the call), and return the GPU's own seconds."""
        self._stream.start()
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            self._context.enqueue()
        return self._stream.seconds()

    def outputs(self) -> dict[str, Array]:
        """Return what the last run gave, copied to the host."""
        for name, array in self._host.items():
            self._outputs[name].read(array, self._stream)
        return {name: array.copy() for name, array in self._host.items()}

    def free(self) -> None:
        """Give the device memory back."""
        for buffer in (*self._inputs.values(), *self._outputs.values()):
            buffer.free()
