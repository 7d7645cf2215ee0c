"""What every target is: one narrow protocol, its options, and what it says of itself.

    Target   status() · build(onnx folder, options, engine folder) · load(engine folder) -> Runner
    Runner   inputs by name -> outputs by name; bind(inputs) -> a call that can be timed

A target knows one runtime. What they share stands beside this file: the check of the ONNX folder
(onnx_file.py), shapes (shapes.py), the engine folder (engine.py), this machine (machine.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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


@dataclass(frozen=True)
class Range:
    """The shapes (batch first) that one input may take in one optimisation profile."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    batch: the batch sizes that the engine must serve; one alone gives a static engine.
    one_profile: with several batches, one profile from the smallest to the largest, in place of
        one profile each (smaller and quicker to build; slower away from the middle).
    ranges: input name -> range, one mapping per profile; replaces what ``batch`` says.
    gpu: compute capabilities for an ahead-of-time build, such as ("sm86", "sm89"); empty: the
        target's default.
    threads: CPU threads of the engine; None: every core that this process may use.
    precision: what the engine must compute in: what the ONNX file holds, or one of the target's
        hinted precisions; None: what model.json says.
    level: the builder's optimisation level; None: its default.
    cache: where timing caches are kept between builds; None: not kept.
    model: what ``diffc.load`` takes, for a target that runs the torch model itself.
    variant: one of a target's ways of running (torch: eager, compiled, graphs); empty: its
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

    reason: one line for whichever of the three is False, saying what to do; empty when all hold.
    versions: the packages and drivers it stands on. device: what it would run on.
    """

    installed: bool
    buildable: bool
    runnable: bool
    reason: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""


class Bound(Protocol):
    """One engine call with its inputs already in place."""

    def run(self) -> float:
        """Run once and return its seconds: by GPU events on a GPU, by the clock on a CPU."""
        ...

    def outputs(self) -> dict[str, Array]:
        """What the last run gave."""
        ...


class Runner(Protocol):
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

    def bind(self, inputs: Arrays) -> Bound:
        """Put ``inputs`` where the engine reads them, so that ``run`` times the engine alone."""
        ...

    def close(self) -> None:
        """Give back what the engine holds."""
        ...


class Target(Protocol):
    """A runtime that engines are built for."""

    name: str
    hinted: frozenset[str]
    """Precisions that it computes in by a hint at the build, from an fp32 ONNX file; every other
    precision must be in the file."""
    asymmetric: bool
    """Whether int8 inputs of layers may have zero points in its ONNX files."""

    def status(self) -> Status:
        """What it can do here; never raises, and loads no more than it must."""
        ...

    def precisions(self) -> frozenset[str]:
        """What its engines may compute in here; the built engine is read back all the same."""
        ...

    def build(self, folder: Path, options: BuildOptions, out: Path) -> Work[EngineInfo]:
        """Build ``out`` (an engine folder, replaced whole) from an ONNX folder.

        Raises InputError for a bad ONNX folder, RequestError for shapes or GPUs that cannot be,
        UnavailableError when it cannot build here, CheckFailed when the engine does not hold the
        precision that was asked for.
        """
        ...

    def load(self, engine: Path, threads: int | None = None) -> Runner:
        """Load an engine folder; ``threads`` overrides those it was built with.

        Raises InputError for a folder that was cut or altered, NotComparable for one from another
        machine or version, UnavailableError when it cannot run here.
        """
        ...
