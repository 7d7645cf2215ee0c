"""ort-cuda: ONNX Runtime on an NVIDIA GPU, inputs and outputs bound on the device.

A static engine is captured as a CUDA graph. fp32 means fp32: TF32 is switched off. ONNX Runtime
gives no GPU events, so a call is timed by the clock from its start until the device is done.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from diffc.errors import UnavailableError
from diffc.events import Work
from diffc.targets import driver, engine, machine, ort, shapes
from diffc.targets.base import Array, Arrays, BuildOptions, Runner, Status
from diffc.targets.out_of_memory import out_of_memory

NAME = "ort-cuda"
_PROVIDER = "CUDAExecutionProvider"


class OrtCuda:
    """The target; see diffc.targets.base.Target."""

    name = NAME
    hinted: frozenset[str] = frozenset()

    def status(self) -> Status:
        """Needs the GPU flavour of onnxruntime, and a GPU to build and to run."""
        number = machine.version("onnxruntime-gpu")
        gpu = next(iter(machine.gpus()), None)
        device = f"{gpu.name} ({gpu.sm})" if gpu else "no NVIDIA GPU"
        if number is None:
            reason = "onnxruntime-gpu is not installed: pip install 'diffc[cuda]'"
            if machine.version("onnxruntime"):
                reason += " (uninstall onnxruntime first: both are one Python package)"
            return Status(False, False, False, reason, {}, device)
        reason = driver.no_gpu() or driver.old_driver("onnxruntime-gpu")
        return Status(True, not reason, not reason, reason, {"onnxruntime-gpu": number}, device)

    def precisions(self) -> frozenset[str]:
        """Those of its kernels."""
        return frozenset({"fp32", "fp16", "bf16"})

    def build(self, folder: Path, options: BuildOptions, out: Path) -> Work[engine.EngineInfo]:
        """As ort-cpu, on the GPU's provider."""
        self._check("build")
        facts = {"versions": self.status().versions, "device": machine.gpu_fingerprint()}
        providers = [(_PROVIDER, _provider_options(False))]
        return (yield from ort.build(NAME, folder, options, out, providers, facts))

    def load(self, folder: Path, threads: int | None = None) -> Runner:
        """A session on the first GPU; ``threads`` are the host's."""
        info = engine.open_engine(folder, NAME, {})
        self._check("run")
        graph = shapes.is_static(info.profiles)
        return OrtCudaRunner(folder / ort.FILE, info, machine.threads(threads, 1), graph=graph)

    def _check(self, what: str) -> None:
        module = ort.onnxruntime(NAME, "cuda")
        status = self.status()
        if not status.runnable:
            raise UnavailableError(f"target '{NAME}' cannot {what} here: {status.reason}")
        if _PROVIDER not in module.get_available_providers():
            raise UnavailableError(f"target '{NAME}': this onnxruntime has no {_PROVIDER}")


def _session(path: Path, threads: int, graph: bool) -> Any:
    providers = [(_PROVIDER, _provider_options(graph))]
    return ort.open_session(path, ort.session_options(threads), providers)


def _provider_options(graph: bool) -> dict[str, str]:
    return {"device_id": "0", "use_tf32": "0", "enable_cuda_graph": "1" if graph else "0"}


class OrtCudaRunner:
    """See diffc.targets.base.Runner."""

    def __init__(self, path: Path, info: engine.EngineInfo, threads: int, graph: bool) -> None:
        self.session = _session(path, threads, graph)
        self.info = info
        self._path, self._threads, self._graph = path, threads, graph
        self._bound: dict[shapes.Call, OrtCudaBound] = {}

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Run once; the device's buffers of each set of shapes are kept, as a graph needs them."""
        bound = self._kept(inputs)
        bound.write(inputs)
        bound.run()
        return bound.outputs()

    def _kept(self, inputs: Arrays) -> OrtCudaBound:
        call = shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        if call not in self._bound:
            self._bound[call] = OrtCudaBound(self.session, self.info, inputs)
        return self._bound[call]

    def bind(self, inputs: Arrays) -> OrtCudaBound:
        """Inputs on the device; the same buffers that calls use, for a graph holds one set."""
        self(inputs)
        return self._kept(inputs)

    def bind_uncaptured(self, inputs: Arrays) -> OrtCudaBound:
        """A session of its own without a CUDA graph: to find out what the graph is worth.

        Raises UnavailableError for an engine of several shapes, which has no graph anyway.
        """
        if not self._graph:
            raise UnavailableError(
                "an engine of several batch sizes or resolutions is not captured"
            )
        return OrtCudaBound(_session(self._path, self._threads, False), self.info, inputs)

    def close(self) -> None:
        """Free the session."""
        self._bound.clear()
        self.session = None


class OrtCudaBound:
    """A session whose inputs and outputs stay on the device."""

    def __init__(self, session: Any, info: engine.EngineInfo, inputs: Arrays) -> None:
        from onnxruntime import OrtValue

        self._session = session
        self._doing = shapes.call_words(NAME, inputs)
        call = shapes.check_inputs(info.inputs, info.profiles, inputs)
        with out_of_memory(self._doing, on_gpu=True):
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
        """One call, in seconds until the device is done."""
        with out_of_memory(self._doing, on_gpu=True):
            start = time.perf_counter()
            self._session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            return time.perf_counter() - start

    def outputs(self) -> dict[str, Array]:
        """What the last run gave, on the host."""
        return {name: value.numpy() for name, value in self._outputs.items()}


TARGET = OrtCuda()
