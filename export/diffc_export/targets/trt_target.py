"""The target that trt and trt-rtx share: status, build, load; only the Flavour differs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffc_export.events import Progress, Work
from diffc_export.targets import engine, shapes, trt_builder, trt_precision
from diffc_export.targets.base import BuildOptions, LoadedEngine, Status
from diffc_export.targets.onnx_file import OnnxModel, read_onnx
from diffc_export.targets.onnx_precision import shares
from diffc_export.targets.trt_builder import Flavour
from diffc_runtime import machine
from diffc_runtime.errors import NotComparable, UnavailableError
from diffc_runtime.fit import runs_on
from diffc_runtime.machine import driver

FILE = "model.engine"


class TrtTarget:
    """See diffc_export.targets.base.Target."""

    def __init__(self, flavour: Flavour) -> None:
        self.facts = flavour.facts
        self.flavour = flavour

    def status(self) -> Status:
        """From the packages' metadata and nvidia-smi: nothing is loaded."""
        flavour, gpu = self.flavour, next(iter(machine.gpu.gpus()), None)
        device = f"{gpu.name} ({gpu.sm})" if gpu else "no NVIDIA GPU"
        version = trt_builder.version(flavour)
        if version is None:
            reason = f"{trt_builder.missing(flavour)}: pip install 'diffc[{flavour.extra}]'"
            return Status(False, False, False, reason, {}, device)
        versions = {flavour.module: version}
        if trt_builder.number(version) < flavour.minimum:
            least = ".".join(map(str, flavour.minimum))
            reason = f"needs {flavour.module} >= {least}, found {version}"
            return Status(True, False, False, reason, versions, device)
        reason = self._no_run_reason()
        buildable = flavour.ahead_of_time or not reason
        return Status(True, buildable, not reason, reason, versions, device)

    def _no_run_reason(self) -> str:
        gpus = machine.gpu.gpus()
        if not gpus:
            if self.flavour.ahead_of_time:
                return f"{driver.no_gpu()}: engines are built ahead of time and cannot run"
            return f"{driver.no_gpu()}: trt builds and runs on the GPU (trt-rtx builds without)"
        if self.flavour.ahead_of_time and trt_builder.capability(gpus[0].sm) not in RTX_RUNS:
            return f"TensorRT for RTX does not list {gpus[0].sm} ({gpus[0].name}); use --target trt"
        return driver.old_driver(*self.flavour.packages)

    def precisions(self) -> frozenset[str]:
        """Everything; which GPU has what is checked against those asked for."""
        return frozenset({"fp32", "fp16", "bf16", "int8", "fp8"})

    def check_gpus(self, gpus: tuple[str, ...], precision: str) -> None:
        """See diffc_export.targets.check_gpus."""
        trt_builder.check_gpus(self.flavour, gpus, precision)

    def build(self, folder: Path, options: BuildOptions, out: Path) -> Work[engine.EngineInfo]:
        """Parse, build, read the precision back, and write the engine folder."""
        self._can_build()
        yield Progress(0, None, "reading the ONNX file")
        model = read_onnx(folder)
        requested = engine.asked_precision(model, options.precision)
        served = shapes.profiles(model, options)
        network = trt_builder.parsed(self.flavour, model)
        config = trt_builder.configured(network, options, served)
        typed = trt_precision.network_elements(network.trt, network.network)
        start = time.perf_counter()
        data = yield from trt_builder.serialized(network, config)
        seconds = time.perf_counter() - start
        weight_shares, read = self._held(network.trt, data, typed)
        strict = engine.is_promised(model, options.precision)
        name = f"{self.facts.name}, {model.path}"
        precision = engine.check_precision(requested, weight_shares, model, name, strict=strict)
        with engine.new_engine_folder(out) as new:
            with (new / FILE).open("wb") as file:
                file.write(memoryview(data))
            info = self._info(model, options, served, requested, precision, weight_shares)
            details = {
                **read,
                "static": shapes.is_static(served),
                "layers": network.network.num_layers,
            }
            whole = engine.write_info(new, _with(info, seconds, details))
        if options.cache is not None and not self.flavour.ahead_of_time:
            path = trt_builder.timing_cache_path(network, options.cache)
            trt_builder.save_timing_cache(config, path)
        return whole

    def _can_build(self) -> None:
        trt_builder.library(self.flavour)
        status = self.status()
        if not status.buildable:
            raise UnavailableError(f"target '{self.facts.name}' cannot build here: {status.reason}")

    def _held(
        self, trt: Any, data: Any, typed: list[tuple[str, int]]
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """The precision's shares, and for ``details`` where they were read from.

        From the engine where it can be opened and tells of most of the network's weights;
        ``inspected`` is of how much it tells.
        """
        details: dict[str, Any] = {"precision_read_from": "strongly typed network"}
        if self._no_run_reason():
            return shares(typed), details
        from diffc_export.targets.trt_engine import inspect

        inspected = trt_precision.engine_elements(inspect(self.flavour, data))
        details["inspected"] = trt_precision.coverage(inspected, typed)
        if details["inspected"] < _MOST:
            return shares(typed), details
        return shares(inspected), {**details, "precision_read_from": "engine inspector"}

    def _info(
        self,
        model: OnnxModel,
        options: BuildOptions,
        served: list[shapes.Profile],
        asked: str,
        found: str,
        held: Mapping[str, float],
    ) -> engine.EngineInfo:
        ahead = self.flavour.ahead_of_time
        gpus = tuple(f"sm{trt_builder.capability(gpu)}" for gpu in options.gpu)
        return engine.EngineInfo(
            target=self.facts.name,
            versions={self.flavour.module: trt_builder.version(self.flavour) or ""},
            device={} if ahead else machine.gpu.gpu_fingerprint(),
            tied_to=(self.flavour.module,) if ahead else (self.flavour.module, *_TIED),
            built_for=(gpus or (self._default_gpus(asked),)) if ahead else (),
            inputs=model.inputs,
            outputs=model.outputs,
            precision_asked=asked,
            precision_found=found,
            precision_shares=held,
            profiles=tuple(served),
            source=model.content,
        )

    def _default_gpus(self, precision: str) -> str:
        """What an ahead-of-time build is for by default: 8.0 and later, as far as they have it."""
        return f"sm{max(80, self.flavour.minimum_sm.get(precision, 0))}+"

    def load(self, folder: Path, threads: int | None = None) -> LoadedEngine:
        """Check the folder, then open the engine on the first GPU; ``threads`` has no meaning."""
        here = {self.flavour.module: trt_builder.version(self.flavour) or "none"}
        info = engine.open_engine(folder, self.facts.name, here | machine.gpu.gpu_fingerprint())
        status = self.status()
        if not status.runnable:
            raise UnavailableError(f"target '{self.facts.name}' cannot run here: {status.reason}")
        check_built_for(folder, info)
        from diffc_export.targets.trt_engine import TrtEngine

        return TrtEngine(self.flavour, folder / FILE, info)


_TIED = ("gpu", "compute_capability")
_MOST = 0.5  # of the weights: an inspector that tells of less is not believed
RTX_RUNS = (75, 80, 86, 89, 120, 121)
"""Compute capabilities that TensorRT for RTX 1.7 lists; 90 (H100, H200) is not among them."""


def check_built_for(folder: Path, info: engine.EngineInfo) -> None:
    """Raise NotComparable when an ahead-of-time engine does not hold this GPU's code."""
    gpus = machine.gpu.gpus()
    if not info.built_for or not gpus:
        return
    here = gpus[0].sm
    if any(runs_on(gpu, gpus[0].compute_capability) for gpu in info.built_for):
        return
    raise NotComparable(
        f"{folder} was built for {', '.join(info.built_for)}; this machine has {here}",
        hint=f"build it again with --gpu {here}",
    )


def _with(info: engine.EngineInfo, seconds: float, details: dict[str, Any]) -> engine.EngineInfo:
    return replace(info, build_seconds=seconds, details=details)
