"""One step of the network on each target, and the memory of its engines.

With guidance a sampling loop runs the network twice at each step.
"""

from __future__ import annotations

from collections.abc import Iterator

from diffc.measure.results import TargetResult
from diffc.report import speed
from diffc.report.blocks import Bar, Block, Notes, Part, Table
from diffc.report.model import Report
from diffc.report.sections import Section
from diffc.report.sections.timings import Row, distribution, how_measured, parity_note, time_rows
from diffc.report.units import change, milliseconds, rate, size

_MEMORY = (
    ("engine_bytes", "engine file"),
    ("weights_bytes", "weights, in memory"),
    ("activations_bytes", "activations, at their peak"),
    ("peak_bytes", "peak of the whole process"),
    ("device_weights_bytes", "GPU memory from loading"),
    ("device_activations_bytes", "GPU memory from running"),
    ("allocator_bytes", "by the runtime's allocator"),
)
"""Fields of ``Memory`` and their names, in reading order."""
_LAID_OUT = (
    "weights take more memory than the engine's file: the runtime lays them out for its kernels"
)
_GUIDED = "with guidance each step of an image runs the network twice; these times are of one run"


def _build(report: Report) -> Iterator[Part]:
    guided = {r.target for r in report.pipeline if r.details.get("guidance", 1) != 1}
    unmeasured: list[str] = []
    for result in report.targets:
        place = f"{result.target}, {result.precision}, {result.shape_words}"
        if reason := _reason(result):
            unmeasured.append(f"{place}: {reason}; {_built(result)}")
            continue
        notes = [_GUIDED] if result.target in guided and result.speedup is not None else []
        yield Part(f"One step on {place}", [*_blocks(result), Notes(notes)])
    yield Part("Built, and not measured here", [Notes(unmeasured)])


def _reason(result: TargetResult) -> str:
    """Why the result has no times; empty where it has."""
    return result.absent or ("" if result.speedup else result.dense.absent) or ""


def _built(result: TargetResult) -> str:
    """What is known of engines that did not run: their files, and their builds."""
    dense, small = result.dense, result.compressed
    before, after = dense.memory.engine_bytes, small.memory.engine_bytes
    built = f"built in {dense.build_seconds:.1f} s and {small.build_seconds:.1f} s"
    smaller = change(before, after)
    return f"engine file {size(before)} dense, {size(after)} compressed ({smaller}), {built}"


def _blocks(result: TargetResult) -> Iterator[Block]:
    if rows := _latency_rows(result):
        yield Table(rows)
    yield from distribution(result)
    yield _memory_table(result)
    yield Notes(list(_notes(result)))
    yield how_measured(result)


def _latency_rows(result: TargetResult) -> list[Row]:
    dense, small = result.dense, result.compressed
    rows = time_rows(result, "one step")
    if not rows:
        return []
    each = [rate(speed.calls_per_s(side, result.batch)) for side in (dense, small)]
    first = [milliseconds(side.first_call_ms) for side in (dense, small)]
    return [
        *rows,
        ("first step", first[0], first[1], ""),
        ("steps per second", each[0], each[1], ""),
    ]


def _memory_table(result: TargetResult) -> Table:
    """Memory, each compressed bar in the outline of the dense one; then the time of the build."""
    dense, small = result.dense, result.compressed
    rows: list[Row] = []
    bars: list[Bar | None] = []
    for field, what in _MEMORY:
        before, after = getattr(dense.memory, field), getattr(small.memory, field)
        if before is not None:
            rows.append((what, size(before), size(after), change(before, after)))
            bars.append(_bar(before, after))
    built = [f"{side.build_seconds:.1f} s" for side in (dense, small)]
    return Table([*rows, ("built in", built[0], built[1], "")], bars=[*bars, None])


def _bar(dense: int, compressed: int | None) -> Bar | None:
    if compressed is None:
        return None
    most = max(dense, compressed, 1)
    return Bar(compressed / most, dense / most)


def _notes(result: TargetResult) -> Iterator[str]:
    memory = result.dense.memory
    if memory.weights_bytes is not None and memory.weights_bytes > memory.engine_bytes:
        yield _LAID_OUT
    if result.noise is not None:
        yield speed.noise_words(result.noise)
    if result.efficiency is not None:
        unsure = result.speedup is not None and not result.speedup.is_shown
        words = f"efficiency (speed-up / reduction of MACs): {result.efficiency:.2f}"
        yield words + (f", of {speed.NOT_SHOWN}" if unsure else "")
    yield from parity_note(result)
    if result.dense.memory.device_how:
        yield f"GPU memory read by {result.dense.memory.device_how}"


SECTION = Section("One step of the network", 40, _build)
