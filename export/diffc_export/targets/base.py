"""What every target is: one narrow protocol, its options, and what it says of itself.

    Target         facts · status() · build(onnx folder, options, engine folder)
                   load(folder) -> LoadedEngine
    LoadedEngine   inputs by name -> outputs by name; bind(inputs) -> BoundCall
    BoundCall      one call with its inputs in place, which can be timed

A target knows one runtime. What they share stands beside this file: the check of the ONNX folder
(onnx_file.py), shapes (shapes.py), the engine folder (engine.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from diffc_export.events import Work

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from diffc_export.targets.engine import EngineInfo

    Array = NDArray[np.generic]
    Arrays = Mapping[str, Array]
else:
    Array = Any
    Arrays = Mapping[str, Any]


Device = Literal["cpu", "gpu", "torch"]
Graphs = Literal["never", "one shape", "always"]
TENSOR_CORES = {"fp32": 16, "fp16": 8, "bf16": 8, "int8": 16, "fp8": 16}
"""Precision -> what widths should be a multiple of on NVIDIA's tensor cores: 16 bytes (NVIDIA's
performance guide for matrix multiplication). fp32 keeps the 16 of a processor."""


@dataclass(frozen=True, kw_only=True)
class TritonBackend:
    """Triton's own backend for a target's engine.

    Args:
        platform: the backend's name in config.pbtxt.
        file: what the backend calls the engine's file.
        any_batch: whether one engine serves every batch size up to the largest.
    """

    platform: str
    file: str
    any_batch: bool


@dataclass(frozen=True, kw_only=True)
class OpenMemory:
    """How much of the machine's memory a target's engines take while they are open.

    Args:
        weights: memory of an engine's weights, as a multiple of their bytes in the ONNX file.
        whole: the same for an ONNX file of up to 256 MB, which has its weights in it.
        each_shape: whether each batch size and resolution has an engine of its own in memory.
        calls: how often the activations of a call are in memory.
        scores: whether attention's scores are among these, (rows, heads, tokens, tokens).
    """

    weights: float
    whole: float
    each_shape: bool
    calls: float
    scores: bool


@dataclass(frozen=True, kw_only=True)
class EngineMemory:
    """How much of the machine's memory a target takes for an engine in one precision.

    Pages of mapped files do not count. ONNX files above 256 MB have their weights in a file of
    their own, which is mapped; smaller ones are read whole.

    Args:
        built: memory while it is built, as a multiple of the weights' bytes in its ONNX file.
        library: bytes of what builds it.
        opened: while it is open; None: it is on a GPU, where nothing was measured.
    """

    built: float
    library: int = 0
    opened: OpenMemory | None


@dataclass(frozen=True, kw_only=True)
class TargetFacts:
    """What a target says of itself. A field that decides a figure or a file has no default.

    Args:
        name: what ``--target`` calls it; its file is called so too, with ``_`` for ``-``.
        device: where its engines run. ``torch``: wherever torch runs on this machine. Engines on
            the processor get pinned cores; of those on a GPU, the GPU's memory is measured.
        packages: the distributions whose versions belong to its engines. Those that are installed
            go into the lock and the machine's fingerprint.
        requires: what ``pip install`` needs to run its engine; the distribution that an engine may
            be tied to comes first.
        libraries: modules that are imported before memory is read: their code is no engine's
            memory.
        alignment: precision -> what widths should be a multiple of. A precision that is not
            listed gets the least common multiple of all.
        ahead_of_time: whether engines are built for GPUs that ``--gpu`` names.
        graphs: when calls are captured as CUDA graphs. ``one shape``: those of an engine that
            serves a single batch size and resolution.
        hinted: precisions that it computes in by a hint at the build, from an fp32 ONNX file;
            every other precision must be in the file.
        asymmetric: whether int8 inputs of layers may have zero points in its ONNX files.
        loader: the module that opens its engines in ``diffc_runtime``, ``diffc_runtime.loaders.X``
            or a file of the target's own package, which bundles copy. None: nothing serves it.
        triton: Triton's backend for it. None: Triton runs it in Python, with ``loader``.
        model_server: whether OpenVINO Model Server runs its engine.
        runs_torch: whether it runs the torch model itself and not the ONNX file.
        memory: precision -> what its engines take of the machine's memory. Of a precision that is
            not in it nothing was measured, and ``diffc plan`` says nothing.

    Raises:
        ValueError: a field has a value that is not possible.
    """

    name: str
    device: Device
    packages: tuple[str, ...]
    requires: tuple[str, ...]
    libraries: tuple[str, ...]
    alignment: Mapping[str, int]
    ahead_of_time: bool
    graphs: Graphs
    hinted: frozenset[str]
    asymmetric: bool
    loader: str | None
    triton: TritonBackend | None
    model_server: bool
    runs_torch: bool
    memory: Mapping[str, EngineMemory] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, kind in (("device", Device), ("graphs", Graphs)):
            if getattr(self, key) not in get_args(kind):
                possible = ", ".join(map(repr, get_args(kind)))
                raise ValueError(f"{key} is {getattr(self, key)!r}, and not one of {possible}")
        if not self.alignment or any(width < 1 for width in self.alignment.values()):
            raise ValueError("alignment gives no width of 1 or more for each precision")
        for key in ("packages", "requires", "libraries"):
            if not isinstance(getattr(self, key), tuple):
                raise ValueError(f"{key} is {getattr(self, key)!r}, and not a tuple of names")

    def width_multiple(self, precision: str) -> int:
        """What widths should be a multiple of in ``precision``, which may be ``auto``."""
        return self.alignment.get(precision) or lcm(*self.alignment.values())


@dataclass(frozen=True)
class Range:
    """The shapes (batch first) that one input may take in one optimisation profile."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes:
        batch: The batch sizes that the engine must serve; one alone gives a static engine.
        one_profile: With several batches, one profile from the smallest to the largest, in place of
            one profile each (smaller and quicker to build; slower away from the middle).
        ranges: Input name -> range, one mapping per profile; replaces what ``batch`` says.
        gpu: Compute capabilities for an ahead-of-time build, such as ("sm86", "sm89"); empty: the
            target's default.
        threads: CPU threads of the engine; None: every core that this process may use.
        precision: What the engine must compute in: what the ONNX file holds, or one of the target's
            hinted precisions; None: what model.json says.
        level: The builder's optimisation level; None: its default.
        cache: Where timing caches are kept between builds; None: not kept.
        model: What ``diffc.load`` takes, for a target that runs the torch model itself.
        variant: One of a target's ways of running (torch: eager, compiled, graphs); empty: its
            first.
    """

    batch: tuple[int, ...] = (1,)
    one_profile: bool = False
    ranges: tuple[Mapping[str, Range], ...] = ()
    gpu: tuple[str, ...] = ()
    threads: int | None = None
    precision: str | None = None
    level: int | None = None
    cache: Path | None = None
    model: str | None = None
    variant: str = ""


@dataclass(frozen=True)
class Status:
    """What a target can do on this machine.

    Attributes:
        installed: Its packages are here.
        buildable: It can build engines here.
        runnable: Its engines run here.
        reason: One line that says what to do about whichever is False; empty when all three hold.
        versions: The packages and drivers it stands on, with their versions.
        device: What it would run on.
    """

    installed: bool
    buildable: bool
    runnable: bool
    reason: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""


class BoundCall(Protocol):
    """One engine call with its inputs already in place."""

    def run(self) -> float:
        """Run once and return its seconds: by GPU events on a GPU, by the clock on a CPU."""
        ...

    def outputs(self) -> dict[str, Array]:
        """What the last run gave."""
        ...


class LoadedEngine(Protocol):
    """A loaded engine.

    Three more things are there where they mean something: ``bind_uncaptured(inputs)``, as ``bind``
    without a CUDA graph, on a target that captures; ``allocator_bytes()``, what the runtime's own
    allocator counts, on a GPU; ``settle``, the seconds that its idle threads spin after a call.

    ``info`` is engine.json's, with what came of loading and binding in ``details``.
    """

    info: EngineInfo

    def __call__(self, inputs: Arrays) -> dict[str, Array]:
        """Outputs by name for inputs by name, each (B, ...). Raises InputError on a bad input."""
        ...

    def bind(self, inputs: Arrays) -> BoundCall:
        """Put ``inputs`` where the engine reads them, so that ``run`` times the engine alone."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


class Target(Protocol):
    """A runtime for which engines are built.

    A target may have two more methods. ``check_gpus(gpus, precision)`` raises the errors that a
    build for these GPUs would raise. ``preload()`` loads the libraries that the modules in
    ``facts.libraries`` need before their import.
    """

    facts: TargetFacts

    def status(self) -> Status:
        """What it can do here; never raises, and loads no more than it must."""
        ...

    def precisions(self) -> frozenset[str]:
        """Return the precisions that this machine can build engines of: ``fp32``, ``fp16`` ...

        What a built engine really computes in is read back from the engine itself.
        """
        ...

    def build(self, folder: Path, options: BuildOptions, out: Path) -> Work[EngineInfo]:
        """Build ``out`` (an engine folder, replaced whole) from an ONNX folder.

        Raises InputError for a bad ONNX folder, RequestError for shapes or GPUs that cannot be,
        UnavailableError when it cannot build here, CheckFailed when the engine does not hold the
        precision that was asked for.
        """
        ...

    def load(self, engine: Path, threads: int | None = None) -> LoadedEngine:
        """Load an engine folder; ``threads`` overrides those it was built with.

        Raises InputError for a folder that was cut or altered, NotComparable for one from another
        machine or version, UnavailableError when it cannot run here.
        """
        ...
