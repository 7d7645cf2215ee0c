"""A TensorRT engine on a GPU: device buffers, one stream, the call captured as a CUDA graph.

Times are GPU events around the call alone, transfers left out, as trtexec reports since 11.
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
from diffc_runtime.machine import cuda


def inspect(flavour: Flavour, data: Any) -> str:
    """The inspector's JSON for a serialised engine."""
    trt, _, _ = trt_builder.library(flavour)
    opened = _deserialised(flavour, data, "the engine just built")
    inspector = opened.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _deserialised(flavour: Flavour, data: Any, name: str) -> Any:
    trt, logger, log = trt_builder.library(flavour)
    log.errors()
    opened = trt.Runtime(logger).deserialize_cuda_engine(data)
    if opened is None:
        raise log.failure(f"{flavour.target} cannot open {name}", f"{flavour.target} opens {name}")
    return opened


class TrtEngine:
    """See diffc_export.targets.base.LoadedEngine."""

    def __init__(self, flavour: Flavour, path: Path, info: EngineInfo) -> None:
        cuda.device_count()
        self._flavour = flavour
        self._engine = _deserialised(flavour, path.read_bytes(), str(path))
        self.info = info.with_details(timed_by=cuda.EVENTS)
        self._cache = KernelCache(self._engine, flavour)
        self._stream = cuda.Stream()
        self._bound: dict[shapes.Call, TrtCall] = {}

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Run once; the context and buffers for each set of shapes are kept."""
        call = shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        if call not in self._bound:
            self._bound[call] = self.bind(inputs)
        bound = self._bound[call]
        bound.write(inputs)
        bound.run()
        return bound.outputs()

    def bind(self, inputs: Arrays) -> TrtCall:
        """A context of its own with the inputs on the device, the call captured."""
        return self._bind(inputs, capture=True)

    def bind_uncaptured(self, inputs: Arrays) -> TrtCall:
        """The same without a CUDA graph: to find out what the graph is worth."""
        return self._bind(inputs, capture=False)

    def allocator_bytes(self) -> int:
        """The execution context's memory, as TensorRT plans it."""
        return int(self._engine.device_memory_size_v2)

    def _bind(self, inputs: Arrays, capture: bool) -> TrtCall:
        call = shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        profile = shapes.profile_index(self.info.profiles, call)
        context = self._cache.context()
        log = trt_builder.library(self._flavour)[2]
        bound = TrtCall(context, self._stream, self.info, inputs, profile, log, capture)
        if capture:
            why = {} if bound.captured else {"not_captured": bound.not_captured}
            self.info = self.info.with_details(captured=bound.captured, **why)
        self._cache.save()
        return bound

    def close(self) -> None:
        """Free the buffers, then the engine."""
        for bound in self._bound.values():
            bound.free()
        self._bound.clear()
        self._engine = None


class KernelCache:
    """TensorRT for RTX compiles kernels when an engine is first used: kept for the next process.

    The library checks itself that a cache is of this GPU, driver and version, and leaves it out
    otherwise. TensorRT proper has no such cache: its engines hold their kernels.
    """

    def __init__(self, engine: Any, flavour: Flavour) -> None:
        self._engine = engine
        self._log = trt_builder.library(flavour)[2]
        self._path = kernel_cache_path(flavour) if flavour.ahead_of_time else None
        self._config = self._runtime_cache = None
        if self._path is not None:
            self._config = engine.create_runtime_config()
            self._runtime_cache = self._config.create_runtime_cache()
            if self._path.is_file():
                self._runtime_cache.deserialize(self._path.read_bytes())
            self._config.set_runtime_cache(self._runtime_cache)

    def context(self) -> Any:
        """A new execution context. Raises OutOfMemory where there is no room for it."""
        asked = () if self._config is None else (self._config,)
        made = self._engine.create_execution_context(*asked)
        if made is None:
            raise self._log.failure(
                "TensorRT cannot make an execution context", "making an execution context"
            )
        return made

    def save(self) -> None:
        """Keep what has been compiled so far."""
        if self._path is not None and self._runtime_cache is not None:
            trt_builder.keep(self._path, bytes(self._runtime_cache.serialize()))


def kernel_cache_path(flavour: Flavour) -> Path:
    """One file per library version and GPU, in diffc's cache folder."""
    from diffc_export.cache import cache_folder

    gpu = machine.gpu.gpus()[0].sm if machine.gpu.gpus() else "none"
    name = f"{flavour.target}-{trt_builder.version(flavour)}-{gpu}.kernels"
    return cache_folder() / name


class TrtCall:
    """One context, its buffers, and its captured call.

    not_captured: why a call that was to be captured is not, and is enqueued each time instead.
    """

    def __init__(
        self,
        context: Any,
        stream: cuda.Stream,
        info: EngineInfo,
        inputs: Arrays,
        profile: int,
        log: trt_builder.Log,
        capture: bool = True,
    ) -> None:
        self._stream = stream
        self._log, self._doing = log, shapes.call_words(info.target, inputs)
        self._context = context
        self._taken(
            self._context.set_optimization_profile_async(profile, stream.address),
            f"profile {profile}",
        )
        self._inputs = {name: cuda.Buffer(array.nbytes) for name, array in inputs.items()}
        for name, array in inputs.items():
            shape = tuple(array.shape)
            self._taken(self._context.set_input_shape(name, shape), f"{name} of shape {shape}")
            self._place(name, self._inputs[name])
        self._host = {spec.name: self._output(spec.name, spec.dtype) for spec in info.outputs}
        self._outputs = {name: cuda.Buffer(array.nbytes) for name, array in self._host.items()}
        for name, buffer in self._outputs.items():
            self._place(name, buffer)
        self.write(inputs)
        self._enqueue()  # the first call may allocate, which a capture forbids
        stream.wait()
        self.not_captured = ""
        self._graph = self._capture() if capture else None

    @property
    def captured(self) -> bool:
        """Whether ``run`` launches a CUDA graph."""
        return self._graph is not None

    def _capture(self) -> cuda.CudaGraph | None:
        try:
            return cuda.CudaGraph(self._stream, self._enqueue)
        except OutOfMemory:
            raise
        except DiffcError as error:  # some layers cannot be captured: the call itself has just run
            self.not_captured = str(error)
            return None

    def _taken(self, accepted: bool, what: str) -> None:
        """Raise InputError with the library's reason when it did not accept something."""
        if not accepted:
            raise self._log.failure(f"TensorRT does not take {what}", self._doing)

    def _place(self, name: str, buffer: cuda.Buffer) -> None:
        accepted = self._context.set_tensor_address(name, buffer.address)
        self._taken(accepted, f"a buffer for '{name}'")

    def _output(self, name: str, dtype: str) -> Array:
        return np.empty(tuple(self._context.get_tensor_shape(name)), dtype)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.address):
            raise self._log.failure("TensorRT refused to run the engine", self._doing)

    def write(self, inputs: Arrays) -> None:
        """Copy new inputs of the same shapes to the device."""
        for name, array in inputs.items():
            self._inputs[name].write(np.ascontiguousarray(array), self._stream)

    def run(self) -> float:
        """One launch of the graph (or one enqueue), in the GPU's own seconds."""
        self._stream.start()
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            self._enqueue()
        return self._stream.seconds()

    def outputs(self) -> dict[str, Array]:
        """What the last run gave, copied to the host."""
        for name, array in self._host.items():
            self._outputs[name].read(array, self._stream)
        return {name: array.copy() for name, array in self._host.items()}

    def free(self) -> None:
        """Give the device memory back."""
        for buffer in (*self._inputs.values(), *self._outputs.values()):
            buffer.free()
