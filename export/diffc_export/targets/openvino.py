"""openvino: OpenVINO on the processor; f32, bf16 where the processor has it, int8 from the file.

The engine is OpenVINO's IR, which loads anywhere; kernels are chosen at load. Each batch size
(and resolution) is compiled with static shapes when it is first used (measured: a fifth faster than
one dynamic model).
OpenVINO computes in bf16 by itself on processors that have it, so the precision is always stated
(whoever loads the IR must state it too: ``details.settings`` in engine.json), and read back from
the compiled model, layer by layer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from diffc_export.events import Progress, Work
from diffc_export.targets import engine, shapes
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
from diffc_export.targets.onnx_file import OnnxModel, read_onnx
from diffc_export.targets.onnx_precision import shares
from diffc_runtime import machine
from diffc_runtime.errors import InputError, UnavailableError
from diffc_runtime.libraries.openvino import (
    FILE,
    StaticModels,
    compile_model,
    failures_named,
    reason,
)

NAME = "openvino"
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_CAPABILITIES = {"bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
_HEAVY = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "GroupConvolution")
_PASSES = ("Transpose", "Reorder", "Reshape")  # on the way from a constant to its layer
_OPENED = OpenMemory(weights=1.05, whole=1.05, each_shape=True, calls=1, scores=False)


class OpenVino:
    """See diffc_export.targets.base.Target."""

    facts = TargetFacts(
        name=NAME,
        device="cpu",
        packages=("openvino",),
        requires=("openvino",),
        libraries=("openvino",),
        # as for ONNX Runtime: one AVX-512 register of fp32
        alignment={"fp32": 16, "fp16": 16, "bf16": 16, "int8": 16},
        ahead_of_time=False,
        graphs="never",
        hinted=frozenset({"bf16", "fp16"}),
        asymmetric=True,
        loader="diffc_runtime.loaders.openvino",
        triton=None,  # its backend refuses a range of batches, and has no setting for f32
        model_server=True,
        runs_torch=False,
        memory={
            "fp32": EngineMemory(built=1.05, opened=_OPENED),
            "int8": EngineMemory(built=1.15, opened=replace(_OPENED, weights=1.15, whole=1.4)),
        },
    )

    def status(self) -> Status:
        """Runs wherever openvino is installed."""
        number = machine.packages.version("openvino")
        device = f"{machine.cpu.cpu_name()}, {machine.cpu.cores()} cores"
        if number is None:
            reason = "openvino is not installed: pip install 'diffc[openvino]'"
            return Status(False, False, False, reason, {}, device)
        return Status(True, True, True, "", {"openvino": number}, device)

    def precisions(self) -> frozenset[str]:
        """fp32, and what this processor has."""
        has = _capabilities() if self.status().installed else []
        return frozenset({"fp32", *(p for p, name in _CAPABILITIES.items() if name in has)})

    def build(self, folder: Path, options: BuildOptions, out: Path) -> Work[engine.EngineInfo]:
        """Convert, compile once to read the precision back, and write the IR."""
        ov = _openvino()
        yield Progress(0, 3, "reading the ONNX file")
        model = read_onnx(folder)
        requested = engine.asked_precision(model, options.precision, self.facts.hinted)
        strict = engine.is_promised(model, options.precision)
        if not strict and requested not in self.precisions():
            requested = "fp32"  # OpenVINO computes a plain file's halves in fp32 here
        check_capability(requested)
        served = shapes.profiles(model, options)
        threads = machine.cpu.threads(options.threads)
        start = time.perf_counter()
        yield Progress(1, 3, "converting")
        graph = _converted(model)
        if len(served) == 1:
            _make_static(graph, served[0])
        yield Progress(2, 3, "compiling")
        elements = list(_elements(_compiled(graph.clone(), served[0], requested, threads)))
        weight_shares = shares(elements)
        name = f"{NAME}, {model.path}"
        precision = engine.check_precision(
            requested, weight_shares, model, name, tuple(_HINTS), strict
        )
        with engine.new_engine_folder(out) as new:
            ov.save_model(graph, new / FILE, compress_to_fp16=False)
            info = engine.EngineInfo(
                target=NAME,
                versions=dict(self.status().versions),
                device=machine.cpu.cpu_fingerprint(),
                inputs=model.inputs,
                outputs=model.outputs,
                precision_asked=requested,
                precision_found=precision,
                precision_shares=weight_shares,
                profiles=tuple(served),
                threads=options.threads,
                build_seconds=time.perf_counter() - start,
                source=model.content,
                details={
                    "heavy_layers": len(elements),
                    "settings": _settings(requested, options.threads),
                },
            )
            return engine.write_info(new, info)

    def load(self, folder: Path, threads: int | None = None) -> LoadedEngine:
        """The IR, compiled for the shapes that are asked of it."""
        _openvino()
        info = engine.open_engine(folder, NAME, {})
        check_capability(info.precision_asked)
        return OpenVinoEngine(folder / FILE, info, machine.cpu.threads(threads, info.threads))


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        hint = "pip install 'diffc[openvino]'"
        raise UnavailableError(f"target '{NAME}' needs openvino ({error})", hint=hint) from None
    return openvino


def check_capability(precision: str) -> None:
    """Raise UnavailableError when this processor does not compute in ``precision``."""
    needed = _CAPABILITIES.get(precision)
    has = _capabilities()
    if needed is not None and needed not in has:
        names = [name for name, capability in _CAPABILITIES.items() if capability in has]
        raise UnavailableError(
            f"OpenVINO does not compute in {precision} on this processor "
            f"({machine.cpu.cpu_name()})",
            hint=f"it has {', '.join(['fp32', *names])}",
        )


def _converted(model: OnnxModel) -> Any:
    ov = _openvino()
    try:
        return ov.Core().read_model(model.path)
    except RuntimeError as error:
        raise InputError(f"OpenVINO refuses {model.path}: {reason(error)}") from None


def _make_static(graph: Any, profile: shapes.Profile) -> None:
    """Fix the inputs' shapes where the profile is one shape; bound them where it is a range."""
    partial = _openvino().PartialShape
    shaped = {}
    for name, span in profile.items():
        ends = zip(span.min, span.max, strict=True)
        shaped[name] = partial([low if low == high else (low, high) for low, high in ends])
    with failures_named(f"giving the graph the shapes {shapes.profile_words(profile)}"):
        graph.reshape(shaped)


@cache
def _capabilities() -> list[str]:
    return list(_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _settings(precision: str, threads: int | None) -> dict[str, Any]:
    """What the model is compiled with; around int8 layers bf16 where it is fast, else f32.

    threads: None leaves their number to the process that loads the engine.
    (Measured on a UNet: with AMX, int8 with f32 around it is slower than bf16 alone, with bf16 it
    is not; without AMX, int8 with bf16 around it is the slower.)
    """
    fast = "BF16" in _capabilities() and machine.cpu.fast_bf16()
    around_int8 = "bf16" if fast else "f32"
    return {
        "INFERENCE_PRECISION_HINT": _HINTS.get(precision, around_int8),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        **({} if threads is None else {"INFERENCE_NUM_THREADS": threads}),
    }


def _compiled(graph: Any, profile: shapes.Profile, precision: str, threads: int) -> Any:
    _make_static(graph, profile)
    return compile_model(graph, _settings(precision, threads))


def _elements(compiled: Any) -> Iterator[tuple[str, int]]:
    """(precision, weight elements) of each heavy layer of the compiled model."""
    for node in compiled.get_runtime_model().get_ordered_ops():
        if _kind(node) in _HEAVY:
            runtime_precision = str(node.get_rt_info()["runtimePrecision"].astype(str))
            if size := _weight_size(node):
                yield _NAMES.get(runtime_precision, runtime_precision), size


def _weight_size(node: Any) -> int:
    """Elements of a layer's second input when it is a constant, else 0."""
    if len(node.inputs()) < 2:
        return 0
    source = node.inputs()[1].get_source_output().get_node()
    while _kind(source) in _PASSES:
        source = source.inputs()[0].get_source_output().get_node()
    shape = node.inputs()[1].get_partial_shape()
    if _kind(source) != "Const" or not shape.is_static:
        return 0
    size = 1
    for dim in shape.to_shape():
        size *= dim
    return size


def _kind(node: Any) -> str:
    return str(node.get_rt_info()["layerType"].astype(str))


class OpenVinoEngine:
    """See diffc_export.targets.base.LoadedEngine."""

    def __init__(self, path: Path, info: engine.EngineInfo, threads: int) -> None:
        self.info = info
        self._models = StaticModels(path, _settings(info.precision_asked, threads))
        for batch in info.batches[:1]:  # the first engine's compilation belongs to loading
            self._models.model(dict(shapes.call_of(info.inputs, batch)))

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Run once."""
        call = shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        request = self._models.request(dict(call))
        with failures_named(shapes.call_words(NAME, inputs)):
            outputs = request.infer(dict(inputs), share_inputs=True)
            return {spec.name: outputs[spec.name] for spec in self.info.outputs}

    def bind(self, inputs: Arrays) -> OpenVinoCall:
        """A request of its own whose input tensors are these arrays."""
        call = shapes.check_inputs(self.info.inputs, self.info.profiles, inputs)
        return OpenVinoCall(self._models.model(dict(call)), self.info, inputs)

    def close(self) -> None:
        """Free the compiled models."""
        self._models.close()


class OpenVinoCall:
    """One request with its inputs in place; timed by the clock."""

    def __init__(self, compiled: Any, info: engine.EngineInfo, inputs: Arrays) -> None:
        import numpy as np

        ov = _openvino()
        self._names = [spec.name for spec in info.outputs]
        self._request = compiled.create_infer_request()
        self._inputs = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        self._doing = shapes.call_words(NAME, inputs)
        for name, array in self._inputs.items():
            self._request.set_tensor(name, ov.Tensor(array, shared_memory=True))

    def run(self) -> float:
        """One call, in seconds."""
        with failures_named(self._doing):
            start = time.perf_counter()
            self._request.start_async()
            self._request.wait()
            return time.perf_counter() - start

    def outputs(self) -> dict[str, Array]:
        """What the last run gave."""
        return {name: self._request.get_tensor(name).data.copy() for name in self._names}


TARGET = OpenVino()
