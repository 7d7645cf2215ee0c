"""The whole sampling loop around an engine: scheduler, copies and all, in seconds for one batch.

It is the loop that a server runs (diffc.export.runtime), from the engine's own engine.json. Every
call makes the same images from the same seed, so that two engines do the same work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from diffc.events import Work
from diffc.measure.latency import Call, LatencyOptions, Timings, interleaved
from diffc.targets.base import Array, Runner


@dataclass(frozen=True)
class LoopOptions:
    """steps of the sampler; images made at once; scheduler: None for the model's own."""

    steps: int = 50
    batch: int = 1
    scheduler: str | None = None
    seed: int = 0


def sampling_pipeline(runner: Runner) -> Any:
    """A diffc.export.runtime pipeline that calls ``runner`` at every step."""
    from diffc.export.runtime.pipeline import Input, Pipeline

    info = runner.info
    inputs = [Input(s.name, s.shape, s.dtype, s.kind) for s in info.inputs]
    sample = next(spec for spec in info.inputs if spec.kind == "sample")
    spans = [next(iter(profile.values())) for profile in info.profiles]
    output = info.outputs[0].name

    def denoise(arrays: dict[str, Array]) -> Array:
        return runner(arrays)[output]

    return Pipeline(
        denoise,
        info.source["scheduler"],
        sample.shape,
        inputs=inputs,
        batches=sorted({(span.min[0], span.max[0]) for span in spans}),
    )


def loop_call(runner: Runner, options: LoopOptions) -> Call:
    """A call that makes ``options.batch`` images and returns its seconds."""
    import numpy as np

    pipeline = sampling_pipeline(runner)
    conditions = {
        spec.name: np.zeros(spec.shape, spec.dtype)
        for spec in runner.info.inputs
        if spec.kind == "condition"
    }

    def call() -> float:
        start = time.perf_counter()
        pipeline.generate(
            options.batch, options.steps, options.seed, options.scheduler, conditions=conditions
        )
        return time.perf_counter() - start

    return call


def measure_loops(
    dense: Runner, compressed: Runner, options: LoopOptions, timing: LatencyOptions
) -> Work[Timings]:
    """Time the loop around both engines in turn."""
    calls = {"dense": loop_call(dense, options), "compressed": loop_call(compressed, options)}
    return (yield from interleaved(calls, timing))
