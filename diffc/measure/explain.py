"""Where the speed-up comes from: a ladder of engines, each one change away from the one before.

    torch, eager -> dense engine, fp32 -> dense engine, asked precision -> compressed, the same

All rungs are timed in turn in one process, so that the factors multiply up to the whole, and nobody
credits pruning with what fp16 did. Every factor is measured; a rung that cannot run here is left
out with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from diffc.errors import RequestError
from diffc.events import Work
from diffc.measure.compare import Candidate, MeasureOptions, candidate_timings, why_not
from diffc.measure.results import Latency, Speedup


class Rung(BaseModel):
    """One rung: its latency, its factor over the rung before that ran, and over the first.

    cause: what changed from the rung before (engine, precision, graph capture, pruning).
    absent: why it was not timed.
    """

    model_config = ConfigDict(extra="forbid")

    label: str
    cause: str
    latency_ms: Latency | None = None
    over_previous: Speedup | None = None
    over_first: Speedup | None = None
    absent: str | None = None


@dataclass(frozen=True)
class Step:
    """A rung to be measured: what it is, what it changes, and its engine folder."""

    label: str
    cause: str
    engine: Path


def explain(steps: Sequence[Step], batch: int, options: MeasureOptions) -> Work[list[Rung]]:
    """Measure every step that can run here, in turn, and the factor that each adds.

    Raises RequestError when two steps have one label, or fewer than two can run here.
    """
    labels = [step.label for step in steps]
    if len(set(labels)) < len(labels):
        raise RequestError(f"the steps' labels are not unique: {', '.join(labels)}")
    absent = {s.label: why for s in steps if (why := why_not(Candidate(s.label, s.engine)))}
    running = [step for step in steps if step.label not in absent]
    if len(running) < 2:
        reasons = "; ".join(f"{label}: {why}" for label, why in absent.items())
        raise RequestError(f"fewer than two of the steps can run here ({reasons})")
    folders = {step.label: step.engine for step in running}
    timings = yield from candidate_timings(folders, batch, options)
    rungs, previous = [], None
    for step in steps:
        rung = Rung(label=step.label, cause=step.cause, absent=absent.get(step.label))
        if rung.absent is None:
            rung.latency_ms = Latency.model_validate(timings.percentiles_ms(step.label))
            if previous is not None:
                rung.over_previous = Speedup.of(timings.ratio(previous, step.label))
                rung.over_first = Speedup.of(timings.ratio(running[0].label, step.label))
            previous = step.label
        rungs.append(rung)
    return rungs
