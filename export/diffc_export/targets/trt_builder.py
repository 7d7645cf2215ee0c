"""One builder for TensorRT (10.9 and later, 11) and TensorRT for RTX: ONNX file -> engine bytes.

Networks are strongly typed: TensorRT 11 has no precision flags any more, so precision is what the
ONNX file says and nothing falls back. What only one library or version has is asked for with
``hasattr``. Everything that can be checked before is checked in onnx_file.py and shapes.py; what is
left is turned here from the library's log into one line.

    library     the imported module and its log, from diffc_runtime.libraries.tensorrt
    parsed      ONNX -> network, or an InputError naming node and operator
    configured  GPUs, static shapes or profiles, timing cache
    serialized  the build, in a thread: progress with elapsed time, cancelled when closed
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffc_export.events import Progress, Work
from diffc_export.gpu_names import CARDS, gpu_capability
from diffc_export.targets import shapes
from diffc_export.targets.base import BuildOptions, TargetFacts
from diffc_export.targets.onnx_file import OnnxModel
from diffc_export.targets.shapes import Profile
from diffc_runtime import machine
from diffc_runtime.errors import InputError, RequestError, UnavailableError, nearest
from diffc_runtime.files import utf8_path
from diffc_runtime.libraries.tensorrt import (
    LIBRARIES,
    Log,
    TrtLibrary,
    load_library,
    write_cache,
)


@dataclass(frozen=True)
class Flavour:
    """Which of the two libraries.

    facts: the target's.
    packages: distributions that hold it, the first being its version of reference.
    minimum_sm: precision -> the first compute capability that has it, in this library.
    """

    facts: TargetFacts
    packages: tuple[str, ...]
    extra: str
    minimum: tuple[int, int]
    minimum_sm: Mapping[str, int]

    @property
    def target(self) -> str:
        """The target's name."""
        return self.facts.name

    @property
    def module(self) -> str:
        """The library's module."""
        return self.facts.libraries[0]

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds for GPUs that are not here."""
        return self.facts.ahead_of_time


def library(flavour: Flavour) -> TrtLibrary:
    """The library with its log. Raises UnavailableError when it is missing or too old."""
    if flavour.module in LIBRARIES:
        return LIBRARIES[flavour.module]
    installed = version(flavour)
    if installed is None:
        reason = f"target '{flavour.target}' {missing(flavour)}"
        raise UnavailableError(reason, hint=f"pip install 'diffc[{flavour.extra}]'")
    if number(installed) < flavour.minimum:
        least = ".".join(map(str, flavour.minimum))
        reason = f"target '{flavour.target}' needs {flavour.module} >= {least}, found {installed}"
        raise UnavailableError(reason, hint=f"pip install 'diffc[{flavour.extra}]'")
    try:
        return load_library(flavour.module)
    except (ImportError, OSError) as error:
        reason = f"{flavour.module} {installed} is installed but cannot load: {error}"
        raise UnavailableError(reason) from None


def version(flavour: Flavour) -> str | None:
    """The installed version of the library, from its package's metadata."""
    package = machine.packages.first_version(*flavour.packages)
    return package[1] if package else None


def number(text: str) -> tuple[int, int]:
    """(major, minor) of a version such as ``10.16.1.11``."""
    parts = text.split(".")
    return int(parts[0]), int(parts[1])


def missing(flavour: Flavour) -> str:
    """One line: the library is not installed, and what stands in for it here if anything does."""
    least = ".".join(map(str, flavour.minimum))
    needs = f"needs {flavour.module} >= {least}, which is not installed"
    other = machine.packages.first_version(*machine.packages.TENSORRT_RTX)
    if flavour.target == "trt" and other:
        return f"{needs}; found tensorrt_rtx {other[1]} (use --target trt-rtx)"
    return needs


@dataclass(frozen=True)
class Network:
    """A parsed network and what must stay alive with it: the library frees what is not held."""

    trt: Any
    builder: Any
    network: Any
    parser: Any
    log: Log
    model: OnnxModel
    flavour: Flavour


def parsed(flavour: Flavour, model: OnnxModel) -> Network:
    """Parse the ONNX file into a strongly typed network.

    Raises InputError naming the node and operator that the library does not take.
    """
    loaded = library(flavour)
    trt, logger, log = loaded.trt, loaded.logger, loaded.log
    log.errors()
    builder = trt.Builder(logger)
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(utf8_path(model.path)):
        raise InputError(_parser_reason(parser, model.path, flavour.target))
    if network.num_layers == 0:  # the parser takes junk for a valid, empty network
        raise InputError(f"{model.path} holds no ONNX graph: {flavour.target} found no layers")
    return Network(trt, builder, network, parser, log, model, flavour)


def _parser_reason(parser: Any, path: Path, target: str) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    for error in errors:
        if "UNSUPPORTED_NODE" in str(error.code()) or "Plugin not found" in error.desc():
            operator, node = error.node_operator(), error.node_name()
            return f"{path}: {target} does not take operator {operator} (node '{node}')"
    if not errors:
        return f"{target} refuses {path}"
    first = errors[0]
    where = f" (node '{first.node_name()}')" if first.node_name() else ""
    return f"{target} refuses {path}{where}: {' '.join(first.desc().split())}"


def configured(network: Network, options: BuildOptions, served: list[Profile]) -> Any:
    """The builder's configuration. Raises RequestError for GPUs or shapes it does not take."""
    config = network.builder.create_builder_config()
    if options.level is not None:
        config.builder_optimization_level = options.level
    config.profiling_verbosity = network.trt.ProfilingVerbosity.DETAILED
    if network.model.precision == "fp32":
        config.clear_flag(network.trt.BuilderFlag.TF32)  # on by default, and not fp32
    _set_gpus(network, config, options.gpu)
    if shapes.is_static(served):
        _make_static(network, served[0])
    for profile in served:
        _add_profile(network, config, profile)
    if options.cache is not None and not network.flavour.ahead_of_time:
        _use_timing_cache(network, config, timing_cache_path(network, options.cache))
    return config


def _make_static(network: Network, profile: Profile) -> None:
    """Fix the inputs' shapes: constant folding then sees through every shape computation."""
    for index in range(network.network.num_inputs):
        tensor = network.network.get_input(index)
        tensor.shape = profile[tensor.name].opt


def _add_profile(network: Network, config: Any, profile: Profile) -> None:
    optimization = network.builder.create_optimization_profile()
    for name, span in profile.items():
        optimization.set_shape(name, span.min, span.opt, span.max)
    if config.add_optimization_profile(optimization) < 0:
        raise RequestError(f"{network.flavour.target} does not take the shapes {dict(profile)}")


def capability(gpu: str) -> int:
    """86 for ``sm86`` or ``A10``. Raises RequestError for anything else."""
    digits = gpu_capability(gpu).removeprefix("sm")
    if not digits.isdigit() or len(digits) > 3:
        close = nearest(gpu.upper(), CARDS)
        known = f"did you mean {close[0]}? " if close else ""
        raise RequestError(
            f"'{gpu}' is neither a GPU's compute capability nor a card that diffc knows",
            hint=f"{known}e.g. --gpu sm86,sm89 or --gpu L4,A100",
        )
    return int(digits)


def _set_gpus(network: Network, config: Any, gpus: tuple[str, ...]) -> None:
    flavour = network.flavour
    check_gpus(flavour, gpus, network.model.precision)
    if not gpus or not flavour.ahead_of_time:
        return
    config.num_compute_capabilities = len(gpus)
    for index, gpu in enumerate(gpus):
        wanted = getattr(network.trt.ComputeCapability, f"SM{capability(gpu)}")
        if not config.set_compute_capability(wanted, index):
            raise _not_built_for(network.trt, flavour, gpu)


def check_gpus(flavour: Flavour, gpus: tuple[str, ...], precision: str) -> None:
    """Raise when the GPUs asked for cannot be built for, or lack the precision.

    RequestError for a GPU, UnavailableError for a precision. Builds nothing: cheap enough to be
    asked before hours of work. A precision that no GPU lacks (auto) is no reason.
    """
    here = machine.gpu.gpus()
    if flavour.ahead_of_time:
        _check_known(flavour, gpus)
    else:
        _check_at_hand(flavour, gpus, here[0].sm if here else "no GPU")
    needed = flavour.minimum_sm.get(precision, 0)
    for gpu in gpus or tuple(g.sm for g in here[:1] if not flavour.ahead_of_time):
        if capability(gpu) < needed:
            reason = f"{flavour.target} has {precision} from sm{needed} on, not for {gpu}"
            raise UnavailableError(reason, hint="choose another --precision or --gpu")


def _check_known(flavour: Flavour, gpus: tuple[str, ...]) -> None:
    """Each of ``gpus`` is among those that the library names; it is imported only for some."""
    wanted = [(gpu, f"SM{capability(gpu)}") for gpu in gpus]
    trt: Any = library(flavour).trt if wanted else None
    for gpu, name in wanted:
        if not hasattr(trt.ComputeCapability, name):
            raise _not_built_for(trt, flavour, gpu)


def _not_built_for(trt: Any, flavour: Flavour, gpu: str) -> RequestError:
    names = trt.ComputeCapability.__members__
    listed = ", ".join(name.lower() for name in names if name.startswith("SM"))
    return RequestError(
        f"target '{flavour.target}' does not build for {gpu}",
        hint=f"it builds for {listed}; data-centre GPUs are trt's",
    )


def _check_at_hand(flavour: Flavour, gpus: tuple[str, ...], found: str) -> None:
    for gpu in gpus:
        if f"sm{capability(gpu)}" != found:
            raise RequestError(
                f"target '{flavour.target}' builds for the GPU at hand ({found}), not {gpu}",
                hint="build there, or use --target trt-rtx",
            )


def timing_cache_path(network: Network, cache: Path) -> Path:
    """Return the file of a timing cache.

    There is one for each version of the library and each GPU, since TensorRT's times of kernels
    hold for no other.
    """
    gpu = machine.gpu.gpus()[0].sm if machine.gpu.gpus() else "none"
    return cache / f"{network.flavour.target}-{version(network.flavour)}-{gpu}.timing"


def _use_timing_cache(network: Network, config: Any, path: Path) -> None:
    content = path.read_bytes() if path.is_file() else b""
    config.set_timing_cache(config.create_timing_cache(content), ignore_mismatch=False)


def save_timing_cache(config: Any, path: Path) -> None:
    """Keep the timings of this build for the next one."""
    cache = config.get_timing_cache()
    if cache is not None:
        write_cache(path, bytes(cache.serialize()))


class Cancel:
    """Whether the build is to stop, and what it says of itself meanwhile."""

    def __init__(self) -> None:
        self.wanted = threading.Event()
        self.phase = "building"


def _monitor(trt: Any, cancel: Cancel) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            cancel.phase = phase

        def phase_finish(self, phase: str) -> None:
            pass

        def step_complete(self, phase: str, step: int) -> bool:
            return not cancel.wanted.is_set()

    return Monitor()


def serialized(network: Network, config: Any) -> Work[Any]:
    """Build, and return the engine's bytes (a buffer); yields the elapsed time twice a second.

    The build runs in a thread, for it releases the interpreter's lock. Closing this generator, or
    an interrupt while it waits, cancels the build and waits for it to end.
    Raises OutOfMemory, or InputError with the library's own first error, when there is no engine.
    """
    cancel, result = Cancel(), dict[str, Any]()
    config.progress_monitor = _monitor(network.trt, cancel)

    def work() -> None:
        result["engine"] = network.builder.build_serialized_network(network.network, config)

    thread = threading.Thread(target=work, name="engine build")
    start = time.perf_counter()
    thread.start()
    try:
        while thread.is_alive():
            elapsed = time.perf_counter() - start
            yield Progress(elapsed, None, f"{cancel.phase}, {elapsed:.0f} s")
            thread.join(0.5)
    finally:
        cancel.wanted.set()
        thread.join()
    if result.get("engine") is None:
        name, path = network.flavour.target, network.model.path
        raise network.log.failure(f"{name} cannot build {path}", f"{name} builds {path}")
    return result["engine"]
