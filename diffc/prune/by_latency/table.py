"""What widths cost in time: tables measured on the target, layer by layer.

Layers that are alike but for their widths share one table. It is measured at a few widths along the
aligned grid (``THOROUGH``: the largest that occurs, three quarters, a half and a quarter of it, and
the smallest; ``QUICK``: the largest and the smallest) and interpolated between them, linearly in
each width: on aligned widths the time of a convolution or a product is very nearly affine in each.
Off the alignment it is a staircase, which the tables do not see; allocation by latency therefore
only goes to aligned widths.

Every layer runs alone, about a hundred of them in turn in random order, once each, so that weights
come from memory as they do in a network larger than the caches; a call's own overhead (an identity
graph's time, measured among them) is taken off. The sum over layers is not the network's time:
additions, concatenations and copies are missing, and some are fused. It is used for ratios, which
the caller corrects by measuring the built engine.

Times are kept in CACHE/latency/KEY.json as they are measured; the key holds target, versions,
device, threads, precision and batch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffc.errors import DiffcError
from diffc.measure.inputs import example_inputs
from diffc.models.branches import Unit
from diffc.prune.allocate import Limits, lowest
from diffc.prune.by_latency.device import LatencyDevice
from diffc.prune.by_latency.layer_graphs import write_layer, write_overhead
from diffc.prune.by_latency.layers import Facts, Layer
from diffc.prune.cost import Dim, Dimensions, Widths, switches
from diffc_export.disks import temporary_folder
from diffc_export.events import Progress, Work, drain
from diffc_export.targets import target
from diffc_export.targets.engine import read_info
from diffc_runtime.files import write_text

_CHUNK_BYTES = 1_500_000_000  # weights loaded at once
_CHUNK_POINTS = 96  # sessions held at once: on a GPU each has a workspace of its own
_OVERHEAD = "overhead"
_FIRST = 8  # layers that are built before the rest is estimated


@dataclass(frozen=True)
class Effort:
    """How carefully tables are measured.

    Attributes:
        shares: Of the largest width, at which there is a point between it and the smallest.
        rounds: How often each layer is timed.
        seconds: What measuring may take; None: whatever it takes.
    """

    shares: tuple[float, ...] = (0.75, 0.5, 0.25)
    rounds: int = 25
    seconds: float | None = None


THOROUGH = Effort()
QUICK = Effort(shares=(), rounds=11)


class TablesTooDear(DiffcError):
    """Measuring the tables takes longer than it may.

    Attributes:
        layers: How many layers were to be measured.
        seconds: What all would take, by those that were built first.
    """

    def __init__(self, layers: int, seconds: float) -> None:
        super().__init__(f"{layers} single layers would take {seconds:.0f} s to measure")
        self.layers, self.seconds = layers, seconds


@dataclass(frozen=True)
class _Clock:
    """When measuring began, and how many layers there are in all."""

    layers: int
    most: float | None
    begin: float = field(default_factory=lambda: time.perf_counter())

    def check(self, built: int) -> None:
        """Raise TablesTooDear where building alone will take all the time, or has taken it."""
        if self.most is None or built < min(_FIRST, self.layers):
            return
        seconds = (time.perf_counter() - self.begin) * self.layers / built
        if seconds > self.most:
            raise TablesTooDear(self.layers, seconds)


Times = dict[str, float]
"""``point`` -> seconds."""


@dataclass(frozen=True)
class TimeTable:
    """Seconds over a grid of widths. anchors: per width, ascending. seconds: their grid."""

    anchors: tuple[tuple[int, ...], ...]
    seconds: NDArray[np.float64]

    def at(self, sizes: Sequence[float]) -> float:
        """Seconds at any widths inside the grid, by linear interpolation in each."""
        values = self.seconds
        for anchors, size in zip(self.anchors, sizes, strict=True):
            values = _between(anchors, values, size)
        return float(values)


def _between(anchors: Sequence[int], values: NDArray[np.float64], at: float) -> NDArray[np.float64]:
    """``values`` (A, ...) at ``anchors`` (A,) -> (...) at ``at``."""
    right = min(max(int(np.searchsorted(anchors, at)), 1), len(anchors) - 1)
    if right == 0:
        return np.asarray(values[0])
    low, high = anchors[right - 1], anchors[right]
    share = (at - low) / (high - low)
    return np.asarray((1 - share) * values[right - 1] + share * values[right])


class LatencyModel:
    """The summed seconds of a network's layers at any widths of its units."""

    def __init__(
        self,
        layers: Sequence[Layer],
        dimensions: Dimensions,
        tables: Sequence[TimeTable],
        units: Sequence[Unit],
    ) -> None:
        """Hold one table for each layer.

        Args:
            layers: The network's.
            dimensions: Every layer's widths.
            tables: One for each layer.
            units: What can shrink. A layer of a branch that is left out takes no time.
        """
        self._dimensions = dimensions
        self._layers = [
            (layer.dims, switches(units, layer.name), table)
            for layer, table in zip(layers, tables, strict=True)
        ]
        self._known: dict[tuple[int, tuple[float, ...]], float] = {}

    def __call__(self, widths: Widths) -> float:
        """Seconds at ``widths`` (U,)."""
        present = present_sizes(self._dimensions, widths)
        return sum(
            self._seconds(table, tuple(present[dim] for dim in dims))
            for dims, branches, table in self._layers
            if all(present[branch] for branch in branches)
        )

    def _seconds(self, table: TimeTable, sizes: tuple[float, ...]) -> float:
        key = (id(table), sizes)
        if key not in self._known:
            self._known[key] = table.at(sizes)
        return self._known[key]


def present_sizes(dimensions: Dimensions, widths: Widths) -> dict[Dim, int]:
    """Dimension -> its size at ``widths``."""
    sizes = dimensions.sizes(widths).astype(int).tolist()
    return dict(zip(dimensions.dims, sizes, strict=True))


def latency_model(
    layers: Sequence[Layer],
    units: Sequence[Unit],
    shapes: Mapping[str, tuple[int, ...]],
    bounds: Limits,
    align: int,
    bench: LatencyDevice,
    effort: Effort = THOROUGH,
) -> Work[LatencyModel]:
    """Return a model of the layers' time; what the table lacks is measured first.

    Args:
        layers: The layers of the network.
        units: What can shrink.
        shapes: Tensor -> its dense shape.
        bounds: The least width of each unit, and what widths are a multiple of.
        align: The grid of the widths that are measured.
        bench: What measures.
        effort: How carefully, and how long at most.

    Raises:
        TablesTooDear: It would take longer than ``effort`` allows.
    """
    dims = {dim for layer in layers for dim in layer.dims}
    dimensions = Dimensions(dims, shapes, units)
    dense = np.array([unit.size for unit in units], dtype=np.int64)
    least = present_sizes(dimensions, lowest(dense, bounds))
    ends = least, present_sizes(dimensions, dense)
    grids = _grids(layers, ends, align, effort.shares)
    points = {
        _point(kind, facts, s): (kind, facts, s)
        for (kind, facts, _), axes in grids.items()
        for s in itertools.product(*axes)
    }
    known = read_times(bench)
    missing = {name: point for name, point in points.items() if name not in known}
    if missing:
        known |= yield from measured(missing, bench, effort)
        write_times(bench, known)
    tables = {key: _table(key, axes, known) for key, axes in grids.items()}
    return LatencyModel(
        layers, dimensions, [tables[_alike(layer, ends)] for layer in layers], units
    )


Key = tuple[str, Facts, tuple[int, ...]]
"""Kind, facts, and the widths that cannot change (0 for those that can)."""
Ends = tuple[Mapping[Dim, int], Mapping[Dim, int]]
Point = tuple[str, Facts, tuple[int, ...]]


def _alike(layer: Layer, ends: Ends) -> Key:
    low, high = ends
    constant = tuple(high[dim] if low[dim] == high[dim] else 0 for dim in layer.dims)
    return layer.kind, layer.facts, constant


def _grids(
    layers: Sequence[Layer], ends: Ends, align: int, shares: Sequence[float]
) -> dict[Key, list[tuple[int, ...]]]:
    """For each kind of layer, the widths to measure along each of its dimensions."""
    ranges: dict[Key, list[list[int]]] = {}
    for layer in layers:
        axes = ranges.setdefault(_alike(layer, ends), [[] for _ in layer.dims])
        for axis, dim in zip(axes, layer.dims, strict=True):
            axis += [ends[0][dim], ends[1][dim]]
    return {
        key: [anchors(min(a), max(a), align, shares) for a in axes] for key, axes in ranges.items()
    }


def anchors(low: int, high: int, align: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Widths to measure between ``low`` and ``high``: aligned shares of the largest, and both."""
    between = (round(high * share / align) * align for share in shares)
    return tuple(sorted({low, high, *(width for width in between if low < width < high)}))


def _table(key: Key, axes: list[tuple[int, ...]], known: Times) -> TimeTable:
    kind, facts, _ = key
    seconds = [known[_point(kind, facts, sizes)] for sizes in itertools.product(*axes)]
    grid = np.array(seconds).reshape([len(axis) for axis in axes])
    for axis in range(grid.ndim):  # a layer slower than a wider one was disturbed
        grid = np.flip(np.minimum.accumulate(np.flip(grid, axis), axis), axis)
    return TimeTable(tuple(axes), grid)


def _point(kind: str, facts: Facts, sizes: Sequence[int]) -> str:
    shown = ";".join(",".join(map(str, part)) for part in facts)
    return f"{kind} {shown} {'x'.join(map(str, sizes))}"


# --- measuring ----------------------------------------------------------------------------------


def measured(
    points: Mapping[str, Point], bench: LatencyDevice, effort: Effort = THOROUGH
) -> Work[Times]:
    """Seconds of each point on ``bench``; see the top of this file.

    Each chunk's are kept as soon as they are there: a run that is stopped goes on from them.
    The order is random, so that the first points say what all will take.
    """
    times: Times = {}
    clock = _Clock(len(points), effort.seconds)
    names = random.Random(0).sample(list(points), len(points))  # noqa: S311 - not for secrets
    for chunk in _chunks({name: points[name] for name in names}):
        times |= yield from _measured_chunk(chunk, bench, effort.rounds, len(times), clock)
        write_times(bench, read_times(bench) | times)
    return times


def _chunks(points: Mapping[str, Point]) -> Iterator[dict[str, Point]]:
    chunk: dict[str, Point] = {}
    loaded = 0
    for name, point in points.items():
        size = 4 * _weights(point)
        full = loaded + size > _CHUNK_BYTES or len(chunk) == _CHUNK_POINTS
        if chunk and full:
            yield chunk
            chunk, loaded = {}, 0
        chunk[name] = point
        loaded += size
    yield chunk


def _weights(point: Point) -> int:
    kind, facts, sizes = point
    kernel = int(np.prod(facts[0])) if kind == "conv" else 1
    return kernel * int(np.prod(sizes))


def _measured_chunk(
    points: Mapping[str, Point], bench: LatencyDevice, rounds: int, done: int, clock: _Clock
) -> Work[Times]:
    runtime = target(bench.target)
    calls: dict[str, Callable[[], float]] = {}
    with temporary_folder() as scratch, ExitStack() as stack:
        writers = {name: _writer(point) for name, point in points.items()}
        for name, write in {_OVERHEAD: write_overhead, **writers}.items():
            place = scratch / str(len(calls))
            folder = lowered(write(place / "onnx"), bench.precision)
            drain(runtime.build(folder, bench.options, place / "engine"))
            runner = runtime.load(place / "engine", bench.threads)
            stack.callback(runner.close)
            inputs = example_inputs(read_info(place / "engine"), bench.batch)
            calls[name] = runner.bind(inputs).run
            clock.check(done + len(calls) - 1)
            yield Progress(done + len(calls) - 1, 2 * clock.layers, "building single layers")
        taken = yield from time_calls(calls, rounds)
    overhead = taken.pop(_OVERHEAD)
    return {name: max(seconds - overhead, 1e-7) for name, seconds in taken.items()}


def _writer(point: Point) -> Callable[[Path], Path]:
    return lambda folder: write_layer(*point, folder)


def lowered(folder: Path, precision: str) -> Path:
    """The folder in ``precision``, where the ONNX file itself has to say so."""
    if precision not in ("fp16", "bf16"):
        return folder
    from diffc_export.onnx.precision import convert_precision

    out = folder.with_name(precision)
    convert_precision(folder, out, precision)
    return out


def time_calls(calls: Mapping[str, Callable[[], float]], rounds: int) -> Work[Times]:
    """The lower quartile of each call's seconds over ``rounds``, each in a fresh random order.

    What disturbs a call only ever makes it longer.
    """
    order = random.Random(0)  # noqa: S311 - not for secrets
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():  # the first call of each makes its buffers
        call()
    start = time.perf_counter()
    for number in range(rounds):
        for name in order.sample(list(calls), len(calls)):
            taken[name].append(calls[name]())
        spent = time.perf_counter() - start
        yield Progress(number + 1, rounds, f"timing {len(calls)} layers", {"seconds": spent})
    return {name: float(np.quantile(seconds, 0.25)) for name, seconds in taken.items()}


# --- the cache ----------------------------------------------------------------------------------


def read_times(bench: LatencyDevice) -> Times:
    """Return the seconds by layer that earlier runs measured on this device.

    They are empty where there is no cache, no file yet, or a file that cannot be read; then the
    layers are timed again.
    """
    path = _path(bench)
    try:
        return dict(json.loads(path.read_text("utf-8"))["seconds"]) if path else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write_times(bench: LatencyDevice, times: Times) -> None:
    """Keep ``times`` for the next run, under a temporary name first."""
    path = _path(bench)
    if path is None:
        return
    content = {"bench": bench.facts(), "seconds": times}
    write_text(path, json.dumps(content, indent=1, default=str))


def _path(bench: LatencyDevice) -> Path | None:
    if bench.cache is None:
        return None
    facts = json.dumps(bench.facts(), sort_keys=True, default=str)
    return bench.cache / "latency" / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.json"
