"""Where the speed-up comes from: a ladder of engines, each one change away from the one before.

    torch eager -> (torch compiled) -> dense engine, fp32 -> asked precision -> graph capture
                -> compressed, the same

All rungs are timed in turn in one process, so that the factors multiply up to the whole, and
pruning is not credited with the effect of fp16. Every factor is measured; a rung that cannot run
here is left out with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffc.errors import RequestError, UnavailableError
from diffc.measure.engines import (
    MeasureOptions,
    cores_of,
    noise_of,
    open_usable_engines,
    settle_times,
    threads_of,
)
from diffc.measure.inputs import example_inputs
from diffc.measure.latency import Timings, interleaved
from diffc.measure.results import Ladder, Latency, Rung, Speedup
from diffc_export.events import Work
from diffc_export.targets.base import Arrays, BoundCall, LoadedEngine
from diffc_export.targets.engine import read_info


@dataclass(frozen=True)
class Step:
    """A rung to be measured.

    Attributes:
        label: Its name.
        cause: The change from the step before.
        engine: Its engine folder; None where there is none.
        captured: False for the engine's calls without a CUDA graph.
        absent: Why there is no engine.
    """

    label: str
    cause: str
    engine: Path | None
    captured: bool = True
    absent: str | None = None


def explain(
    steps: Sequence[Step], batches: Sequence[int], options: MeasureOptions
) -> Work[list[Ladder]]:
    """Measure every step that can run here, in turn, and the factor that each adds.

    Returns:
        One ladder per batch size. Target and precision are the last step's.

    Raises:
        RequestError: Two steps have one label, or fewer than two can run here.
    """
    labels = [step.label for step in steps]
    if len(set(labels)) < len(labels):
        raise RequestError(f"the steps' labels are not unique: {', '.join(labels)}")
    folders = {str(step.engine): step.engine for step in steps if step.engine is not None}
    reference = next(iter(options.references.values()), None)
    ladders = []
    with open_usable_engines(folders, options.threads) as (runners, reasons):
        known = [_with_reason(step, reasons) for step in steps]
        for batch in batches:
            bound, tried = _bound(known, runners, batch, reference)
            calls = {label: call.run for label, call in bound.items()}
            of_steps = {s.label: runners[str(s.engine)] for s in tried if s.label in bound}
            settle = settle_times(of_steps)
            timings = yield from interleaved(calls, options.latency, settle)
            ladders.append(_ladder(tried, batch, timings, options))
    return ladders


def _with_reason(step: Step, reasons: Mapping[str, str]) -> Step:
    return replace(step, absent=step.absent or reasons.get(str(step.engine)))


def _bound(
    steps: Sequence[Step], runners: Mapping[str, LoadedEngine], batch: int, reference: Path | None
) -> tuple[dict[str, BoundCall], list[Step]]:
    """A call for each step that runs here, and all steps, with the reason of those that do not."""
    bound: dict[str, BoundCall] = {}
    tried = []
    for step in steps:
        try:
            if step.absent is None:
                bound[step.label] = _call(step, runners[str(step.engine)], batch, reference)
        except UnavailableError as error:
            step = replace(step, absent=str(error))
        tried.append(step)
    if len(bound) < 2:
        why = "; ".join(f"{step.label}: {step.absent}" for step in tried if step.absent)
        raise RequestError(f"fewer than two of the steps can run here ({why})")
    return bound, tried


def _call(step: Step, runner: LoadedEngine, batch: int, reference: Path | None) -> BoundCall:
    """The step's call, run once, since torch.compile fails in its first run only."""
    inputs = example_inputs(runner.info, batch, reference)
    call = runner.bind(inputs) if step.captured else _uncaptured(runner, inputs)
    call.run()
    return call


def _uncaptured(runner: LoadedEngine, inputs: Arrays) -> BoundCall:
    bind = getattr(runner, "bind_uncaptured", None)
    if bind is None:
        raise UnavailableError(f"target '{runner.info.target}' captures no graph")
    call: BoundCall = bind(inputs)
    return call


def _ladder(steps: Sequence[Step], batch: int, timings: Timings, options: MeasureOptions) -> Ladder:
    last = read_info(_folder(steps[-1]))
    infos = [read_info(_folder(step)) for step in steps if step.label in timings.samples]
    names = list(timings.samples)
    return Ladder(
        target=last.target,
        precision=last.precision_asked,
        batch=batch,
        rungs=_rungs(steps, timings),
        noise=noise_of(timings, names[-2], infos),  # of the dense engine, as the reports say
        details={
            "rounds": len(timings.samples[names[0]]),
            "threads": threads_of(last, options.threads),
            "pinned_to_cores": list(cores_of(infos, options.threads)),
        },
    )


def _folder(step: Step) -> Path:
    assert step.engine is not None
    return step.engine


def _rungs(steps: Sequence[Step], timings: Timings) -> list[Rung]:
    rungs: list[Rung] = []
    first = next(iter(timings.samples))
    previous: str | None = None
    for step in steps:
        rung = Rung(label=step.label, cause=step.cause, absent=step.absent)
        if step.absent is None:
            rung.latency_ms = Latency.model_validate(timings.percentiles_ms(step.label))
            if previous is not None:
                rung.over_previous = Speedup.of(timings.ratio(previous, step.label))
                rung.over_first = Speedup.of(timings.ratio(first, step.label))
            previous = step.label
        rungs.append(rung)
    return rungs
