"""ort-cuda: ONNX Runtime on an NVIDIA GPU, inputs and outputs bound on the device.

A static engine is captured as a CUDA graph. fp32 means fp32: TF32 is switched off. The session
computes on a stream of ours, so that a call is timed by GPU events, as with the other runtimes;
where CUDA's runtime library is not to be found, by the clock until the device is done.
"""

from __future__ import annotations

import time
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffc_export.events import Work
from diffc_export.targets import engine, ort, shapes
from diffc_export.targets.base import (
    TENSOR_CORES,
    Array,
    Arrays,
    BuildOptions,
    LoadedEngine,
    Status,
    TargetFacts,
)
from diffc_runtime import machine
from diffc_runtime.errors import CheckFailed, InputError, UnavailableError
from diffc_runtime.libraries import ort as library
from diffc_runtime.machine import cuda, cuda_libraries, driver

NAME = "ort-cuda"


class OrtCuda:
    """The target; see diffc_export.targets.base.Target."""

    facts = TargetFacts(
        name=NAME,
        device="gpu",
        packages=("onnxruntime-gpu",),
        requires=("onnxruntime-gpu",),
        libraries=("onnxruntime",),
        alignment=TENSOR_CORES,
        ahead_of_time=False,
        graphs="one shape",
        hinted=frozenset(),
        asymmetric=False,
        loader="diffc_runtime.loaders.ort_cuda",
        triton=ort.triton_backend(),
        model_server=False,
        runs_torch=False,
    )

    def preload(self) -> None:
        """Load CUDA's libraries from where Python packages keep them."""
        cuda_libraries.preload()

    def status(self) -> Status:
        """Needs the GPU flavour of onnxruntime, and a GPU to build and to run."""
        number = machine.packages.version("onnxruntime-gpu")
        gpu = next(iter(machine.gpu.gpus()), None)
        device = f"{gpu.name} ({gpu.sm})" if gpu else "no NVIDIA GPU"
        if number is None:
            reason = "onnxruntime-gpu is not installed: pip install 'diffc[cuda]'"
            if machine.packages.version("onnxruntime"):
                reason += " (uninstall onnxruntime first: both are one Python package)"
            return Status(False, False, False, reason, {}, device)
        imported = ort.package()
        if imported is not None and imported[0] != "onnxruntime-gpu":
            reason = (
                f"what is imported is onnxruntime {imported[1]}, which lies in front of "
                f"onnxruntime-gpu {number}: uninstall onnxruntime"
            )
            return Status(True, False, False, reason, {}, device)
        reason = driver.no_gpu() or driver.old_driver("onnxruntime-gpu")
        versions = {"onnxruntime-gpu": imported[1] if imported else number}
        return Status(True, not reason, not reason, reason, versions, device)

    def precisions(self) -> frozenset[str]:
        """Those of its kernels."""
        return frozenset({"fp32", "fp16", "bf16"})

    def build(self, folder: Path, options: BuildOptions, out: Path) -> Work[engine.EngineInfo]:
        """As ort-cpu, on the GPU's provider.

        Opened as for a CUDA graph, which ONNX Runtime refuses where a layer would be computed on
        the processor (the arithmetic of shapes may be); without one it would not say so.
        Raises CheckFailed then.
        """
        self._check("build")
        facts = {"versions": self.status().versions, "device": machine.gpu.gpu_fingerprint()}
        providers = [(library.CUDA, _provider_options(True))]
        try:
            return (yield from ort.build(NAME, folder, options, out, providers, facts))
        except InputError as error:
            if "graph capture" not in str(error):
                raise
            raise CheckFailed(
                f"{NAME} cannot compute all of {folder} on the GPU: {error}",
                hint="layers that ONNX Runtime has no CUDA kernel for; another target may have it",
            ) from None

    def load(self, folder: Path, threads: int | None = None) -> LoadedEngine:
        """A session on the first GPU; ``threads`` are the host's."""
        info = engine.open_engine(folder, NAME, {})
        self._check("run")
        graph = shapes.is_static(info.profiles)
        cores = machine.cpu.threads(threads, 1)
        return OrtCudaEngine(folder / library.FILE, info, cores, graph=graph)

    def _check(self, what: str) -> None:
        cuda_libraries.preload()
        module = ort.onnxruntime(NAME, "cuda")
        status = self.status()
        if not status.runnable:
            raise UnavailableError(f"target '{NAME}' cannot {what} here: {status.reason}")
        if library.CUDA not in module.get_available_providers():
            has = ", ".join(module.get_available_providers())
            raise UnavailableError(
                f"target '{NAME}': this onnxruntime has no {library.CUDA}, only {has}",
                hint="uninstall onnxruntime, and install onnxruntime-gpu anew",
            )


def _provider_options(graph: bool, stream: cuda.Stream | None = None) -> dict[str, str]:
    chosen = {"device_id": "0", "use_tf32": "0", "enable_cuda_graph": "1" if graph else "0"}
    return chosen if stream is None else {**chosen, "user_compute_stream": str(stream.address)}


class OrtCudaEngine:
    """See diffc_export.targets.base.LoadedEngine."""

    def __init__(self, path: Path, info: engine.EngineInfo, threads: int, graph: bool) -> None:
        self._path, self._threads, self._graph = path, threads, graph
        self._bound: dict[shapes.Call, OrtCudaCall] = {}
        self._stream = cuda.Stream() if cuda.installed() else None
        timed_by = cuda.CLOCK if self._stream is None else cuda.EVENTS
        self.info = info.with_details(timed_by=timed_by, captured=graph)
        try:
            self.session = self._session(graph)
        except InputError as error:
            if not graph:
                raise
            self._uncaptured(str(error))

    def _session(self, graph: bool) -> Any:
        providers = [(library.CUDA, _provider_options(graph, self._stream))]
        return library.open_session(self._path, library.session_options(self._threads), providers)

    def _uncaptured(self, why: str) -> None:
        """Go on without a graph, on a stream of its own: a capture may still be open on the old."""
        self._graph = False
        self._stream = cuda.Stream() if cuda.installed() else None
        self.session = self._session(False)
        self.info = self.info.with_details(captured=False, not_captured=why)

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Run once; the device's buffers of each set of shapes are kept, as a graph needs them."""
        bound = self._call_for(inputs)
        bound.write(inputs)
        bound.run()
        return bound.outputs()

    def _call_for(self, inputs: Arrays) -> OrtCudaCall:
        call = shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        if call not in self._bound:
            self._bound[call] = self._new_call(inputs)
        return self._bound[call]

    def _new_call(self, inputs: Arrays) -> OrtCudaCall:
        """A call with buffers of its own; where there is to be a graph, its first run captures."""
        bound = OrtCudaCall(self.session, self.info, inputs, self._stream)
        if not self._graph:
            return bound
        try:
            bound.run()
        except library.OrtFailed as error:
            self._uncaptured(error.reason)
            bound = OrtCudaCall(self.session, self.info, inputs, self._stream)
        return bound

    def bind(self, inputs: Arrays) -> OrtCudaCall:
        """Inputs on the device; the same buffers that calls use, for a graph holds one set."""
        self(inputs)
        return self._call_for(inputs)

    def bind_uncaptured(self, inputs: Arrays) -> OrtCudaCall:
        """A session of its own without a CUDA graph: to find out what the graph is worth.

        Raises UnavailableError for an engine of several shapes, which has no graph anyway.
        """
        if not self._graph:
            reason = "an engine of several batch sizes or resolutions is not captured"
            raise UnavailableError(self.info.details.get("not_captured") or reason)
        return OrtCudaCall(self._session(False), self.info, inputs, self._stream)

    def any_batch(self) -> OrtCudaEngine:
        """The same session for whatever batch size, as a server calls it; a captured one stays as
        it is, for a graph is of one set of shapes."""
        if self._graph:
            return self
        other = copy(self)
        other.info, other._bound = replace(self.info, profiles=()), {}
        return other

    def close(self) -> None:
        """Free the session."""
        self._bound.clear()
        self.session = None


class OrtCudaCall:
    """A session whose inputs and outputs stay on the device.

    stream: what the session computes on; its events time the calls. None: the clock does.
    """

    def __init__(
        self, session: Any, info: engine.EngineInfo, inputs: Arrays, stream: cuda.Stream | None
    ) -> None:
        from onnxruntime import OrtValue, RunOptions

        self._session, self._stream = session, stream
        self._options = RunOptions()
        if stream is not None:  # else the host's wait at the end of a run lies between the events
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._doing = shapes.call_words(NAME, inputs)
        call = shapes.check_inputs(info.inputs, info.profiles, inputs)
        with library.failures_named(self._doing, on_gpu=True):
            self._inputs = {
                name: OrtValue.ortvalue_from_numpy(array, "cuda", 0)
                for name, array in inputs.items()
            }
            self._outputs = {
                spec.name: OrtValue.ortvalue_from_shape_and_type(
                    list(shapes.output_shape(info.inputs, spec, call)), spec.dtype, "cuda", 0
                )
                for spec in info.outputs
            }
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def write(self, inputs: Arrays) -> None:
        """Copy new inputs into the same device memory."""
        for name, array in inputs.items():
            self._inputs[name].update_inplace(array)

    def run(self) -> float:
        """One call, in the GPU's own seconds; without a stream until the device is done."""
        with library.failures_named(self._doing, on_gpu=True):
            if self._stream is not None:
                self._stream.start()
                self._session.run_with_iobinding(self._binding, self._options)
                return self._stream.seconds()
            start = time.perf_counter()
            self._session.run_with_iobinding(self._binding, self._options)
            self._binding.synchronize_outputs()
            return time.perf_counter() - start

    def outputs(self) -> dict[str, Array]:
        """What the last run gave, on the host."""
        return {name: value.numpy() for name, value in self._outputs.items()}


TARGET = OrtCuda()
