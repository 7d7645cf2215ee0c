"""diffc check: candidate and baseline measured again, in turn, on this machine, and judged.

For each engine that both sides have, at each batch size: the baseline against itself (is this
machine fit?), one engine call, the whole sampling loop, memory in fresh processes. Once per engine:
its size, build time, parity. Once in all: the samples' SSIM.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from diffc import __version__
from diffc.errors import NotComparable, UnavailableError
from diffc.events import Progress, Work
from diffc.gate.baseline import StoredFigures
from diffc.gate.limits import Limit, Limits
from diffc.gate.result import EXIT, CheckResult, Figure, Noise, overall, side
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
from diffc.gate.subject import Engine, Pair, Subject, batches, check_model, matched
from diffc.measure.engines import loaded, why_absent
from diffc.measure.environment import read_environment
from diffc.measure.inputs import example_inputs
from diffc.measure.latency import Call, LatencyOptions, interleaved
from diffc.measure.loop import LoopOptions, loop_call
from diffc.measure.memory import measure_memory
from diffc.measure.parity import measure_parity
from diffc.measure.results import Memory
from diffc.measure.statistics import Ratio, spread
from diffc.targets.base import Runner

_MEMORY_TRIES = 3


@dataclass(frozen=True)
class CheckRequest:
    """One check. targets, batch: those wanted; empty: all that both sides have.

    loop_steps: of the sampling loop; 0: it is not timed. memory: whether it is measured.
    """

    candidate: Subject
    baseline: Subject
    limits: Limits
    rule: RuleOptions
    targets: tuple[str, ...] = ()
    batch: tuple[int, ...] = ()
    threads: int | None = None
    loop_steps: int = 10
    memory: bool = True


@dataclass(frozen=True)
class _Label:
    """Where a figure belongs."""

    target: str
    precision: str
    batch: int | None

    def figure(self, name: str, verdict: Verdict, **rest: object) -> Figure:
        values = {"target": self.target, "precision": self.precision, "batch": self.batch, **rest}
        return Figure.model_validate({"name": name, "verdict": verdict, **values})


def check(request: CheckRequest) -> Work[CheckResult]:
    """Judge a candidate against a baseline that can be measured again.

    Raises NotComparable when the two cannot be compared (the message shows both), UnavailableError
    when an engine cannot run here. A machine too noisy to judge is a verdict, not an exception.
    """
    start = time.perf_counter()
    pairs, notes = matched(request.candidate, request.baseline, request.targets)
    figures: list[Figure] = []
    noise: list[Noise] = []
    for pair in pairs:
        _runnable(pair)
        for batch in batches(pair, request.batch):
            found, same = yield from _timed(pair, batch, request)
            figures += found
            noise.append(same)
            if request.memory:
                figures.append((yield from _memory(pair, batch, request.limits)))
        figures += _sizes(pair, request.limits)
        figures += yield from _parity(pair.candidate)
    figures += _quality(request)
    return _result(request, figures, noise, notes, start)


def check_report(request: CheckRequest) -> Work[CheckResult]:
    """The weaker check: the candidate measured now against figures that were stored.

    Raises NotComparable unless the stored figures are of this very machine and its runtimes.
    """
    start = time.perf_counter()
    check_model(request.candidate, request.baseline)
    _same_fingerprint(request.baseline)
    stored = {(f.target, f.precision, f.batch): f for f in request.baseline.figures}
    figures: list[Figure] = []
    noise: list[Noise] = []
    for engine in request.candidate.engines:
        _runnable(Pair(engine, engine))
        for batch in request.batch or engine.info.batches or (1,):
            before = stored.get((engine.info.target, engine.info.precision_asked, batch))
            if before is not None:
                found, same = yield from _against_stored(engine, batch, before, request)
                figures += found
                noise.append(same)
        figures += yield from _parity(engine)
    if not noise:
        raise NotComparable(
            f"{request.baseline.path} has no figures of {request.candidate.path}'s engines"
        )
    figures += _quality(request)
    notes = [
        "weaker: the baseline was not measured again, so whatever changed on this machine since "
        "then is in the figures"
    ]
    return _result(request, figures, noise, notes, start, weaker=True)


def _timed(pair: Pair, batch: int, request: CheckRequest) -> Work[tuple[list[Figure], Noise]]:
    """The machine's fitness, one call, the loop; times cannot be judged on an unfit machine."""
    baseline, label = pair.baseline, _label(pair.candidate, batch)
    same = yield from _fitness(baseline, batch, request)
    noise = _noise(label, same)
    folders = {"candidate": pair.candidate.folder, "baseline": baseline.folder}
    with loaded(in_turn(folders, request.rule.seed), request.threads) as runners:
        calls = {name: _call(runner, baseline, batch) for name, runner in runners.items()}
        decision = yield from compare_calls(calls["candidate"], calls["baseline"], request.rule)
        figures = list(_latency(label, decision, same, request))
        if request.loop_steps:
            figures.append((yield from _loop(label, runners["candidate"], runners["baseline"],
                                             same, request)))  # fmt: skip
    return figures, noise


def in_turn(folders: dict[str, Path], seed: int) -> dict[str, Path]:
    """The engines in the order in which they are loaded: an odd seed loads the baseline first.

    Which one comes first to memory can make it a little faster or slower for good, which no order
    within pairs evens out; repeated checks with other seeds do.
    """
    return dict(reversed(folders.items())) if seed % 2 else folders


def _fitness(baseline: Engine, batch: int, request: CheckRequest) -> Work[Decision]:
    """The baseline against itself, loaded twice: what loading alone changes counts as noise."""
    folders = {"first": baseline.folder, "again": baseline.folder}
    with loaded(folders, request.threads) as runners:
        calls = {name: _call(runner, baseline, batch) for name, runner in runners.items()}
        return (yield from same_calls(calls["first"], calls["again"], request.rule))


def _call(runner: Runner, inputs_of: Engine, batch: int) -> Call:
    return runner.bind(example_inputs(inputs_of.info, batch, inputs_of.reference)).run


def _latency(
    label: _Label, decision: Decision, same: Decision, request: CheckRequest
) -> Iterator[Figure]:
    limits = request.limits
    yield _timing(
        label,
        "latency p50",
        decision.ratio,
        decision,
        same,
        limits.slowdown,
        np.median,
        _samples(decision),
    )
    mean = mean_ratio(decision.paired, request.rule.seed)
    yield _timing(label, "latency mean", mean, decision, same, limits.mean_slowdown, np.mean)


def _timing(
    label: _Label,
    name: str,
    ratio: Ratio,
    decision: Decision,
    same: Decision,
    limit: float | None,
    average: Callable[..., np.floating],
    samples: dict[str, list[float]] | None = None,
) -> Figure:
    """One ratio of times against one limit; unfit where the machine is, reported without one."""
    verdict: Verdict = "reported" if limit is None else slower(ratio, limit)
    if limit is not None and same.verdict == "unfit":
        verdict = "unfit"
    return label.figure(
        name,
        verdict,
        unit="ms",
        baseline=float(average(decision.baseline)) * 1e3,
        candidate=float(average(decision.candidate)) * 1e3,
        ratio=ratio.median,
        ci99=ratio.ci99,
        pairs=ratio.pairs,
        limit=None if limit is None else f"+{limit * 100:g}%",
        samples_ms=samples,
    )


def _loop(
    label: _Label, candidate: Runner, baseline: Runner, same: Decision, request: CheckRequest
) -> Work[Figure]:
    assert label.batch is not None
    options = LoopOptions(steps=request.loop_steps, batch=label.batch)
    calls = [loop_call(runner, options) for runner in (candidate, baseline)]
    decision = yield from compare_calls(calls[0], calls[1], request.rule)
    name = f"loop p50, {request.loop_steps} steps"
    return _timing(label, name, decision.ratio, decision, same, request.limits.slowdown, np.median)


def _memory(pair: Pair, batch: int, limits: Limits) -> Work[Figure]:
    """Peak memory in a fresh process; a candidate above its limit is measured again, for some
    runs take more by chance, and the least of each side counts."""
    found: dict[str, list[float]] = {"baseline": [], "candidate": []}
    for attempt in range(_MEMORY_TRIES):
        for name, engine in (("baseline", pair.baseline), ("candidate", pair.candidate)):
            yield Progress(attempt, _MEMORY_TRIES, f"memory of {name}")
            found[name].append(_peak(measure_memory(engine.folder, batch, split=False)))
        least = {name: min(values) for name, values in found.items()}
        if limits.memory is None or limits.memory.allows(least["candidate"], least["baseline"]):
            break
    device = measured_on_device(pair.candidate)
    what = "GPU memory" if device else "peak memory"
    return _within(
        _label(pair.candidate, batch), what, "bytes", least["candidate"], least["baseline"],
        limits.memory,
    )  # fmt: skip


def measured_on_device(engine: Engine) -> bool:
    """Whether the engine's memory is a GPU's."""
    return engine.info.target in ("trt", "trt-rtx", "ort-cuda")


def _peak(memory: Memory) -> float:
    if memory.device_bytes is not None:
        return float(memory.device_bytes)
    return float(memory.peak_bytes or 0)


def _sizes(pair: Pair, limits: Limits) -> list[Figure]:
    ours, theirs = pair.candidate.info, pair.baseline.info
    label = _label(pair.candidate, None)
    return [
        _within(label, "engine size", "bytes", ours.engine_bytes, theirs.engine_bytes,
                limits.engine_size),
        _within(label, "build time", "s", ours.build_seconds, theirs.build_seconds,
                limits.build_time),
    ]  # fmt: skip


def _within(
    label: _Label, name: str, unit: str, candidate: float, baseline: float | None,
    limit: Limit | None,
) -> Figure:  # fmt: skip
    """A counted figure against its limit."""
    allowed = None if limit is None else limit.allows(candidate, baseline)
    verdict: Verdict = "reported" if allowed is None else "pass" if allowed else "regressed"
    return label.figure(
        name, verdict, unit=unit, candidate=candidate, baseline=baseline,
        ratio=candidate / baseline if baseline else None, limit=limit.text if limit else None,
    )  # fmt: skip


def _parity(engine: Engine) -> Work[list[Figure]]:
    label = _label(engine, None)
    if engine.reference is None:
        return [label.figure("parity", "absent", note="no reference.safetensors beside its ONNX")]
    with loaded({"candidate": engine.folder}, None) as runners:
        found = yield from measure_parity(runners["candidate"], engine.reference)
    verdict: Verdict = "pass" if found.passed else "regressed"
    return [
        label.figure(
            "parity", verdict, candidate=found.rel_l2, limit=f"{found.tolerance:g}",
            note=found.reason,
        )
    ]  # fmt: skip


def _quality(request: CheckRequest) -> list[Figure]:
    """The samples' SSIM to dense, as the candidate's run measured it."""
    values = [
        ((subject.quality or {}).get("ssim") or {}).get("mean")
        for subject in (request.candidate, request.baseline)
    ]
    least, label = request.limits.ssim, _Label("samples", "", None)
    if values[0] is None:
        if least is None:
            return []
        note = f"{request.candidate.path} has no samples compared"
        return [label.figure("SSIM", "inconclusive", limit=f">= {least:g}", note=note)]
    verdict: Verdict = "reported"
    if least is not None:
        verdict = "pass" if values[0] >= least else "regressed"
    return [
        label.figure(
            "SSIM", verdict, candidate=values[0], baseline=values[1],
            limit=None if least is None else f">= {least:g}",
        )
    ]  # fmt: skip


def _against_stored(
    engine: Engine, batch: int, before: StoredFigures, request: CheckRequest
) -> Work[tuple[list[Figure], Noise]]:
    """One call of the candidate now, against the stored times of the baseline."""
    label = _label(engine, batch)
    same = yield from _fitness(engine, batch, request)
    rule = request.rule
    with loaded({"candidate": engine.folder}, request.threads) as runners:
        call = _call(runners["candidate"], engine, batch)
        timing = LatencyOptions(rounds=rule.most_pairs, seconds=0.0, most_seconds=rule.seconds)
        timings = yield from interleaved({"candidate": call}, timing)
    now, then = timings.times("candidate"), np.asarray(before.samples_ms) / 1e3
    if not len(then):
        raise NotComparable(f"{request.baseline.path} has no times of {engine.name}")
    decision = replace(same, candidate=now, baseline=then)
    ratio = unpaired_ratio(now, then, rule.seed)
    figures = [
        _timing(label, "latency p50", ratio, decision, same, request.limits.slowdown, np.median)
    ]
    limits = request.limits
    if request.memory:
        yield Progress(0, None, "memory of candidate")
        device = measured_on_device(engine)
        peak = before.device_bytes if device else before.peak_bytes
        figures.append(_within(label, "GPU memory" if device else "peak memory", "bytes",
                               _peak(measure_memory(engine.folder, batch, split=False)), peak,
                               limits.memory))  # fmt: skip
    figures.append(_within(label, "engine size", "bytes", engine.info.engine_bytes,
                           before.engine_bytes, limits.engine_size))  # fmt: skip
    return figures, _noise(label, same)


def _same_fingerprint(baseline: Subject) -> None:
    here = read_environment().fingerprint
    there = (baseline.environment or {}).get("fingerprint")
    if here != there:
        raise NotComparable(
            f"{baseline.path} was measured on another machine or with other versions: "
            f"its fingerprint is {there or 'unknown'}, here it is {here}",
            hint="give --baseline with engines, which are measured again here",
        )


def _runnable(pair: Pair) -> None:
    reason = why_absent(pair.candidate.info)
    if reason:
        raise UnavailableError(f"{pair.candidate.name} cannot be measured here: {reason}")


def _label(engine: Engine, batch: int | None) -> _Label:
    return _Label(engine.info.target, engine.info.precision_asked, batch)


def _noise(label: _Label, same: Decision) -> Noise:
    assert label.batch is not None
    return Noise(
        target=label.target, precision=label.precision, batch=label.batch, verdict=same.verdict,
        ratio=same.ratio.median, ci99=same.ratio.ci99, pairs=same.ratio.pairs,
        spread=spread(same.baseline),
    )  # fmt: skip


def _samples(decision: Decision) -> dict[str, list[float]]:
    sides = {"baseline": decision.baseline, "candidate": decision.candidate}
    return {name: [round(float(t) * 1e3, 6) for t in times] for name, times in sides.items()}


def _result(
    request: CheckRequest,
    figures: list[Figure],
    noise: list[Noise],
    notes: Sequence[str],
    start: float,
    *,
    weaker: bool = False,
) -> CheckResult:
    verdict = overall(figures)
    sides = [side(s.path, s.kind, s.model, s.digest) for s in (request.candidate, request.baseline)]
    return CheckResult(
        diffc=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        verdict=verdict,
        exit_code=EXIT[verdict],
        candidate=sides[0],
        baseline=sides[1],
        weaker=weaker,
        figures=figures,
        noise=noise,
        notes=list(notes),
        seconds=time.perf_counter() - start,
        environment=read_environment().model_dump(mode="json"),
    )
