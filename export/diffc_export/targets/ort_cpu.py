"""ort-cpu: ONNX Runtime on the processor.

ONNX Runtime's own optimised file is tuned to the processor's instruction set and no faster than
optimising at load (measured: within noise), so the engine is the portable file.

Session options, chosen by measurement on two cores:
- every graph optimisation (the NCHWc layout is worth 20-25 % on a UNet);
- a fixed number of intra-op threads, one inter-op thread;
- worker threads stop spinning at the end of a run, so that of two sessions measured in turn the
  idle one takes no time from the other.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from diffc_export.disks import temporary_folder
from diffc_export.events import Work
from diffc_export.targets import engine, ort, shapes
from diffc_export.targets.base import (
    Array,
    Arrays,
    BuildOptions,
    EngineMemory,
    LoadedEngine,
    OpenMemory,
    Status,
    TargetFacts,
)
from diffc_runtime import machine
from diffc_runtime.errors import InputError
from diffc_runtime.libraries import ort as library

NAME = "ort-cpu"
_PROVIDERS = [library.CPU]
_OPENED = OpenMemory(weights=1.03, whole=1.6, each_shape=False, calls=1.05, scores=True)


class OrtCpu:
    """The target; see diffc_export.targets.base.Target."""

    facts = TargetFacts(
        name=NAME,
        device="cpu",
        packages=("onnxruntime",),
        requires=("onnxruntime",),
        libraries=("onnxruntime",),
        # one AVX-512 register of fp32, measured in notes of ONNX Runtime's blocked layout
        alignment={"fp32": 16, "fp16": 16, "bf16": 16},
        ahead_of_time=False,
        graphs="never",
        hinted=frozenset(),
        asymmetric=False,
        loader="diffc_runtime.loaders.ort_cpu",
        triton=ort.triton_backend(),
        model_server=False,
        runs_torch=False,
        memory={"fp32": EngineMemory(built=1.03, opened=_OPENED)},
    )

    def status(self) -> Status:
        """Runs wherever onnxruntime is installed."""
        package = ort.package()
        device = f"{machine.cpu.cpu_name()}, {machine.cpu.cores()} cores"
        if package is None:
            reason = "onnxruntime is not installed: pip install 'diffc[cpu]'"
            return Status(False, False, False, reason, {}, device)
        return Status(True, True, True, "", {package[0]: package[1]}, device)

    def precisions(self) -> frozenset[str]:
        """fp32, and the halves that it has convolutions in on this processor, which is tried.

        No int8: the kernels want outputs in int8 too, which a denoiser does not stand.
        """
        installed = self.status().installed
        return frozenset({"fp32", *(name for name in ("fp16", "bf16") if installed and _has(name))})

    def build(self, folder: Path, options: BuildOptions, out: Path) -> Work[engine.EngineInfo]:
        """Check that the file loads, read its precision back, and copy it into ``out``."""
        ort.onnxruntime(NAME, "cpu")
        facts = {"versions": self.status().versions, "device": machine.cpu.cpu_fingerprint()}
        return (yield from ort.build(NAME, folder, options, out, _PROVIDERS, facts))

    def load(self, folder: Path, threads: int | None = None) -> LoadedEngine:
        """A session on the CPU provider."""
        ort.onnxruntime(NAME, "cpu")
        info = engine.open_engine(folder, NAME, {})
        path = folder / library.FILE
        options = library.session_options(machine.cpu.threads(threads, info.threads), path)
        return OrtCpuEngine(library.open_session(path, options, _PROVIDERS), info)


@cache
def _has(precision: str) -> bool:
    """Whether a convolution in ``precision`` is computed in it: where there is no kernel, ONNX
    Runtime casts to fp32 or refuses the file, and which kernels there are depends on the processor.
    """
    from onnx import TensorProto, helper, save

    ort.onnxruntime(NAME, "cpu")
    kind = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    shaped = [helper.make_tensor_value_info(name, kind, [1, 1, 3, 3]) for name in ("x", "y")]
    weight = helper.make_tensor("w", kind, [1, 1, 3, 3], [0.0] * 9)
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "probe", shaped[:1], shaped[1:], [weight])
    opsets = [helper.make_opsetid("", 22)]  # the first with convolutions in bf16
    with temporary_folder() as folder:
        path = folder / "probe.onnx"
        save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        try:
            elements = ort.weight_elements(path, _PROVIDERS)
        except InputError:  # it has no kernel and no way round
            return False
    return [name for name, _ in elements] == [precision]


class OrtCpuEngine:
    """An ONNX Runtime session on the CPU; see diffc_export.targets.base.LoadedEngine."""

    def __init__(
        self, session: Any, info: engine.EngineInfo, first: library.FirstCalls | None = None
    ) -> None:
        self.session = session
        self.info = info
        self._first = first or library.FirstCalls()

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Run once."""
        shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        names = [spec.name for spec in self.info.outputs]
        with library.failures_named(shapes.call_words(NAME, inputs), on_gpu=False):
            outputs = self._first.call(
                inputs.values(), lambda options: self.session.run(names, dict(inputs), options)
            )
            return dict(zip(names, outputs, strict=True))

    def bind(self, inputs: Arrays) -> OrtCpuCall:
        """Inputs and outputs stay in the session's own memory from run to run."""
        shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        return OrtCpuCall(self.session, self.info, inputs, self._first)

    def any_batch(self) -> OrtCpuEngine:
        """The same session for whatever batch size, as a server calls it."""
        return OrtCpuEngine(self.session, replace(self.info, profiles=()), self._first)

    def close(self) -> None:
        """Free the session."""
        self.session = None


class OrtCpuCall:
    """A session with its inputs bound; timed by the clock."""

    def __init__(
        self, session: Any, info: engine.EngineInfo, inputs: Arrays, first: library.FirstCalls
    ) -> None:
        self._session = session
        self._first = first
        self._names = [spec.name for spec in info.outputs]
        self._binding = session.io_binding()
        for name, array in inputs.items():
            self._binding.bind_cpu_input(name, array)
        for name in self._names:
            self._binding.bind_output(name, "cpu")
        self._doing = shapes.call_words(NAME, inputs)
        self._inputs = dict(inputs)  # the binding points into these arrays

    def run(self) -> float:
        """One call, in seconds."""
        with library.failures_named(self._doing, on_gpu=False):
            return self._first.call(self._inputs.values(), self._timed)

    def _timed(self, options: Any) -> float:
        start = time.perf_counter()
        self._session.run_with_iobinding(self._binding, options)
        return time.perf_counter() - start

    def outputs(self) -> dict[str, Array]:
        """What the last run gave."""
        arrays = self._binding.copy_outputs_to_cpu()
        return dict(zip(self._names, arrays, strict=True))


TARGET = OrtCpu()
