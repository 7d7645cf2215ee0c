"""The figures of a check: each is measured, set against its limit, and given a verdict.

For a pair of engines at one batch size: the baseline against itself (is this machine fit?), one
engine call, the whole sampling loop, memory in fresh processes. Once per pair: size, build time,
parity. What cannot be measured is absent, with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from diffc.errors import UnavailableError
from diffc.gate.baseline import StoredFigures
from diffc.gate.images import image_options, loop_words
from diffc.gate.limits import CheckLimits, Limit
from diffc.gate.pairing import Pair
from diffc.gate.progress import Steps
from diffc.gate.result import Figure, SelfComparison
from diffc.gate.rule import (
    Decision,
    RuleOptions,
    Verdict,
    compare_calls,
    mean_ratio,
    same_calls,
    slower,
    unpaired_ratio,
)
from diffc.gate.subject import CheckedEngine
from diffc.measure.engines import open_engines
from diffc.measure.inputs import example_inputs
from diffc.measure.latency import Call, LatencyOptions, interleaved
from diffc.measure.loop import LoopOptions, loop_call
from diffc.measure.memory import measure_memory
from diffc.measure.parity import dead_output, measure_parity
from diffc.measure.results import Memory
from diffc.measure.statistics import Ratio, Times, spread
from diffc_export.events import Progress, Work
from diffc_export.targets import on_gpu
from diffc_export.targets.base import BoundCall, LoadedEngine
from diffc_runtime.errors import BadRequest, UnfitEngine

T = TypeVar("T")

_MEMORY_TRIES = 3


@dataclass(frozen=True)
class Measuring:
    """How a check measures.

    Attributes:
        limits: How much worse is allowed.
        rule: How long to measure.
        threads: CPU threads of both sides; None: as each was built.
        time_loop: Whether whole images are timed, each side's by its own loop.
        memory: Whether memory is measured.
        steps: Counts what is measured.
    """

    limits: CheckLimits
    rule: RuleOptions
    threads: int | None
    time_loop: bool
    memory: bool
    steps: Steps

    def step(self, what: str, label: Label, work: Work[T]) -> Work[T]:
        """Do ``work`` as one step of the check."""
        return self.steps.follow(f"{what}, {label}", work)

    def count(self, batches: int, *, stored: bool) -> int:
        """The steps of one pair of engines that is measured at so many batch sizes."""
        of_batch = 2 + bool(self.time_loop and not stored) + self.memory
        return batches * of_batch + 1


@dataclass(frozen=True)
class Label:
    """The engine and batch size that a figure is of; batch None: the engine as a whole."""

    target: str
    precision: str
    batch: int | None

    @classmethod
    def of(cls, engine: CheckedEngine, batch: int | None) -> Label:
        """The label of an engine at one batch size."""
        return cls(engine.info.target, engine.info.precision_asked, batch)

    def __str__(self) -> str:
        """'ort-cpu fp32 batch 1'."""
        batch = "" if self.batch is None else f" batch {self.batch}"
        return f"{self.target} {self.precision}{batch}"

    def figure(self, name: str, verdict: Verdict, **rest: object) -> Figure:
        """Return a figure of this engine at this batch size.

        Args:
            name: What was measured: ``latency p50``.
            verdict: Whether it is worse than the baseline.
            rest: The other fields of ``Figure``: values, interval, limit, note.
        """
        values = {"target": self.target, "precision": self.precision, "batch": self.batch, **rest}
        return Figure.model_validate({"name": name, "verdict": verdict, **values})


def measured_pair(
    pair: Pair, batch: int, how: Measuring
) -> Work[tuple[list[Figure], list[SelfComparison]]]:
    """Measure a pair at one batch size, and how noisy the machine is."""
    label = Label.of(pair.candidate, batch)
    noise: list[SelfComparison] = []
    try:
        figures, same = yield from _time_pair(pair, batch, how)
        noise.append(same)
    except UnavailableError as error:  # such as no memory: the rest still counts
        figures = [label.figure("latency p50", "absent", note=str(error))]
    if how.memory:
        figures.append((yield from how.step("memory", label, _memory(pair, batch, how))))
    return figures, noise


def _time_pair(pair: Pair, batch: int, how: Measuring) -> Work[tuple[list[Figure], SelfComparison]]:
    """The machine's fitness, one call, the loop; little can be judged on an unfit machine."""
    baseline, label = pair.baseline, Label.of(pair.candidate, batch)
    fitness = _fitness(baseline, batch, how)
    same = yield from how.step("baseline against itself", label, fitness)
    folders = {"candidate": pair.candidate.folder, "baseline": baseline.folder}
    with open_engines(in_turn(folders, how.rule.seed), how.threads) as runners:
        bound = {name: _bound(runner, baseline, batch) for name, runner in runners.items()}
        calls = compare_calls(bound["candidate"].run, bound["baseline"].run, how.rule)
        decision = yield from how.step("latency", label, calls)
        figures = list(_latency(label, decision, same, how))
        figures += _broken_output(label, bound["candidate"])
        if how.time_loop:
            loops = image_options(pair, batch)
            loop = _loop(label, runners, loops, same, how)
            figures.append((yield from how.step("sampling loop", label, loop)))
    return figures, _noise(label, same)


def in_turn(folders: dict[str, Path], seed: int) -> dict[str, Path]:
    """The engines in the order in which they are loaded: an odd seed loads the baseline first.

    Load order can bias an engine's speed for the whole run. Repeat the check with another seed to
    average it out.
    """
    return dict(reversed(folders.items())) if seed % 2 else folders


def _fitness(baseline: CheckedEngine, batch: int, how: Measuring) -> Work[Decision]:
    """Compare the baseline with itself, loaded twice: what loading changes counts as noise."""
    folders = {"first": baseline.folder, "again": baseline.folder}
    with open_engines(folders, how.threads) as runners:
        calls = {name: _bound(runner, baseline, batch).run for name, runner in runners.items()}
        return (yield from same_calls(calls["first"], calls["again"], how.rule))


def _bound(runner: LoadedEngine, inputs_of: CheckedEngine, batch: int) -> BoundCall:
    return runner.bind(example_inputs(inputs_of.info, batch, inputs_of.reference))


def _broken_output(label: Label, candidate: BoundCall) -> Iterator[Figure]:
    """A regression where the candidate's output has NaN: its times mean nothing then."""
    for output in candidate.outputs().values():
        fault = dead_output(output)
        if fault.startswith("has"):
            yield label.figure("output", "regressed", note=f"the candidate's output {fault}")
            return


def _latency(label: Label, decision: Decision, same: Decision, how: Measuring) -> Iterator[Figure]:
    samples = {"baseline": decision.baseline, "candidate": decision.candidate}
    yield _timing(
        label,
        "latency p50",
        decision.ratio,
        decision,
        same,
        how.limits.slowdown,
        np.median,
        {name: [round(float(t) * 1e3, 6) for t in times] for name, times in samples.items()},
    )
    mean = mean_ratio(decision.paired, how.rule.seed)
    yield _timing(label, "latency mean", mean, decision, same, how.limits.mean_slowdown, np.mean)


def _timing(
    label: Label,
    name: str,
    ratio: Ratio,
    decision: Decision,
    same: Decision,
    limit: float | None,
    average: Callable[..., np.floating],
    samples: dict[str, list[float]] | None = None,
) -> Figure:
    """One ratio of times against one limit; reported without one."""
    return label.figure(
        name,
        "reported" if limit is None else judged(ratio, same, limit),
        unit="ms",
        baseline=float(average(decision.baseline)) * 1e3,
        candidate=float(average(decision.candidate)) * 1e3,
        ratio=ratio.median,
        ci99=ratio.ci99,
        pairs=ratio.pairs,
        limit=None if limit is None else f"+{limit * 100:g}%",
        samples_ms=samples,
    )


def judged(ratio: Ratio, same: Decision, limit: float) -> Verdict:
    """The verdict on one ratio, given the baseline's comparison with itself (``same``).

    An interval wholly beyond the limit is a regression on a noisy machine too: noise has widened
    it. Only where the baseline differs from itself by more than the limit for good (its interval
    is wholly beyond it) must the candidate's lie beyond that as well.
    """
    verdict = slower(ratio, limit)
    if same.verdict != "unfit":
        return verdict
    low, high = same.ratio.ci99
    lasting = low > 1 + limit or high < 1 / (1 + limit)
    if verdict == "regressed" and not (lasting and ratio.ci99[0] <= max(high, 1 / low)):
        return "regressed"
    return "unfit"


def _loop(
    label: Label,
    runners: Mapping[str, LoadedEngine],
    loops: Mapping[str, LoopOptions],
    same: Decision,
    how: Measuring,
) -> Work[Figure]:
    """The whole sampling loop; a candidate whose loop gives no numbers has regressed."""
    name = f"loop p50, {loop_words(loops)}"
    calls: dict[str, Call] = {}
    for side in ("baseline", "candidate"):
        try:
            calls[side] = loop_call(runners[side], loops[side])
        except (BadRequest, UnfitEngine) as error:
            return label.figure(name, "absent", note=f"{side}: {error}")
        try:
            calls[side]()
        except BadRequest as error:
            return label.figure(name, "absent", note=f"{side}: {error}")
        except UnfitEngine as error:
            verdict: Verdict = "regressed" if side == "candidate" else "absent"
            return label.figure(name, verdict, note=f"{side}: {error}")
    decision = yield from compare_calls(calls["candidate"], calls["baseline"], how.rule)
    return _timing(label, name, decision.ratio, decision, same, how.limits.slowdown, np.median)


def _memory(pair: Pair, batch: int, how: Measuring) -> Work[Figure]:
    """Peak memory in a fresh process, the least of up to three runs.

    A candidate above its limit is measured again, since some runs take more by chance.
    """
    label, limit = Label.of(pair.candidate, batch), how.limits.memory
    name = memory_name(pair.candidate)
    peaks: dict[str, list[float]] = {"baseline": [], "candidate": []}
    for attempt in range(_MEMORY_TRIES):
        for side, engine in (("baseline", pair.baseline), ("candidate", pair.candidate)):
            yield Progress(attempt, _MEMORY_TRIES, f"memory of {side}")
            try:
                peaks[side].append(_peak(engine, batch, how))
            except UnavailableError as error:
                return label.figure(name, "absent", note=str(error))
        least = {side: min(values) for side, values in peaks.items()}
        if limit is None or limit.allows(least["candidate"], least["baseline"]) is not False:
            break
    return _within(label, name, "bytes", least["candidate"], least["baseline"], limit)


def memory_name(engine: CheckedEngine) -> str:
    """The name of the figure of an engine's memory."""
    return "GPU memory" if on_gpu(engine.info.target) else "peak memory"


def _peak(engine: CheckedEngine, batch: int, how: Measuring) -> float:
    """Bytes at the peak of a fresh process.

    Raises:
        UnavailableError: The memory cannot be measured here.
    """
    memory: Memory = measure_memory(engine.folder, batch, split=False, threads=how.threads)
    gpu = on_gpu(engine.info.target)
    peak = memory.device_bytes if gpu else memory.peak_bytes
    if peak is None:
        where = "GPU memory" if gpu else "resident memory"
        raise UnavailableError(f"{where} of {engine.folder} cannot be read here")
    return float(peak)


def sizes(pair: Pair, limits: CheckLimits) -> list[Figure]:
    """The figures in engine.json, which need no run."""
    ours, theirs = pair.candidate.info, pair.baseline.info
    label = Label.of(pair.candidate, None)
    return [
        _within(
            label,
            "engine size",
            "bytes",
            ours.engine_bytes,
            theirs.engine_bytes,
            limits.engine_size,
        ),
        _within(
            label, "build time", "s", ours.build_seconds, theirs.build_seconds, limits.build_time
        ),
    ]


def _within(
    label: Label,
    name: str,
    unit: str,
    candidate: float,
    baseline: float | None,
    limit: Limit | None,
) -> Figure:
    """A counted figure against its limit; absent where there is nothing to take a share of."""
    allowed = None if limit is None else limit.allows(candidate, baseline)
    verdict: Verdict = "pass" if allowed else "regressed"
    note = ""
    if limit is None:
        verdict = "reported"
    elif allowed is None:
        verdict, note = "absent", f"the baseline has no {name} to take {limit.text} of"
    return label.figure(
        name,
        verdict,
        unit=unit,
        candidate=candidate,
        baseline=baseline,
        note=note,
        ratio=candidate / baseline if baseline else None,
        limit=limit.text if limit else None,
    )


def parity(engine: CheckedEngine, how: Measuring) -> Work[list[Figure]]:
    """Compare the candidate's engine with torch, where its reference is at hand."""
    label = Label.of(engine, None)
    return (yield from how.step("parity", label, _parity(label, engine, how.threads)))


def _parity(label: Label, engine: CheckedEngine, threads: int | None) -> Work[list[Figure]]:
    if engine.reference is None:
        return [label.figure("parity", "absent", note="no reference.safetensors beside its ONNX")]
    try:
        with open_engines({"candidate": engine.folder}, threads) as runners:
            result = yield from measure_parity(runners["candidate"], engine.reference)
    except UnavailableError as error:
        return [label.figure("parity", "absent", note=str(error))]
    return [
        label.figure(
            "parity",
            "pass" if result.passed else "regressed",
            candidate=result.rel_l2,
            limit=f"{result.tolerance:g}",
            note=result.reason,
        )
    ]


def against_stored(
    engine: CheckedEngine, batch: int, before: StoredFigures, how: Measuring
) -> Work[tuple[list[Figure], list[SelfComparison]]]:
    """One call of the candidate now, against the stored times of the baseline.

    An unfit machine gives no verdict. The times were not taken in turn, so other work shifts the
    candidate's alone and does not only widen the interval.
    """
    label = Label.of(engine, batch)
    then = np.asarray(before.samples_ms, np.float64) / 1e3
    figures: list[Figure] = []
    noise: list[SelfComparison] = []
    if not len(then) or not (then > 0).all():
        note = "the baseline has no times of it"
        figures.append(label.figure("latency p50", "absent", note=note))
    else:
        fitness = _fitness(engine, batch, how)
        same = yield from how.step("candidate against itself", label, fitness)
        noise.append(_noise(label, same))
        now = yield from how.step("latency", label, _times(engine, batch, how))
        decision = replace(same, candidate=now, baseline=then)
        ratio = unpaired_ratio(now, then, how.rule.seed)
        timed = _timing(label, "latency p50", ratio, decision, same, how.limits.slowdown, np.median)
        fit = same.verdict != "unfit"
        figures.append(timed if fit else timed.model_copy(update={"verdict": "unfit"}))
    if how.memory:
        memory = _memory_against(engine, batch, before, how)
        figures.append((yield from how.step("memory", label, memory)))
    figures.append(
        _within(
            label,
            "engine size",
            "bytes",
            engine.info.engine_bytes,
            before.engine_bytes,
            how.limits.engine_size,
        )
    )
    return figures, noise


def _times(engine: CheckedEngine, batch: int, how: Measuring) -> Work[Times]:
    """Every time of the engine's call, in seconds."""
    rule = how.rule
    with open_engines({"candidate": engine.folder}, how.threads) as runners:
        call = _bound(runners["candidate"], engine, batch).run
        timing = LatencyOptions(rounds=rule.most_pairs, seconds=0.0, most_seconds=rule.seconds)
        timings = yield from interleaved({"candidate": call}, timing)
    return timings.times("candidate")


def _memory_against(
    engine: CheckedEngine, batch: int, before: StoredFigures, how: Measuring
) -> Work[Figure]:
    yield Progress(0, None, "memory of candidate")
    label, name = Label.of(engine, batch), memory_name(engine)
    stored = before.device_bytes if on_gpu(engine.info.target) else before.peak_bytes
    try:
        peak = _peak(engine, batch, how)
    except UnavailableError as error:
        return label.figure(name, "absent", note=str(error))
    return _within(label, name, "bytes", peak, stored, how.limits.memory)


def _noise(label: Label, same: Decision) -> SelfComparison:
    assert label.batch is not None
    return SelfComparison(
        target=label.target,
        precision=label.precision,
        batch=label.batch,
        verdict=same.verdict,
        ratio=same.ratio.median,
        ci99=same.ratio.ci99,
        pairs=same.ratio.pairs,
        spread=spread(same.baseline),
    )
