"""Whole images: the sampling loop around an engine, with all that an image takes.

It is the loop that a server runs (diffc_runtime): scheduler, guidance, copies, and the VAE's
decoder where the denoiser makes latents. Every call makes the same images from the same seed, so
that two engines do the same work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffc.measure.latency import Call, LatencyOptions, Timings, interleaved
from diffc_export.events import Work
from diffc_export.targets.base import Array, LoadedEngine

Decode = Callable[[Array], Array]


@dataclass(frozen=True)
class LoopOptions:
    """What each timed call does.

    steps: of the sampler. batch: images made at once. scheduler: the sampler; None: the model's.
    guidance: the scale of classifier-free guidance; 1 for none.
    conditions, unconditional: name -> (...), the same for every image; zeros for those left out.
    settings: pipeline.json's content, as a bundle has it; None: the engine's scheduler alone.
    decoder: the engine folder of the VAE's decoder. latent: the samples are no images without one.
    notes: what is to be said of these choices. absent: why no image can be made here, or None.
    """

    steps: int = 50
    batch: int = 1
    scheduler: str | None = None
    seed: int = 0
    guidance: float = 1.0
    conditions: Mapping[str, Array] = field(default_factory=dict)
    unconditional: Mapping[str, Array] = field(default_factory=dict)
    settings: Mapping[str, Any] | None = None
    decoder: Path | None = None
    latent: bool = False
    notes: tuple[str, ...] = ()
    absent: str | None = None


class TimedLoop:
    """The loop around one engine: each call makes ``options.batch`` images, in seconds.

    calls, rows: how often the network was called so far, and the rows of its last call.
    """

    def __init__(
        self, runner: LoadedEngine, options: LoopOptions, decode: Decode | None = None
    ) -> None:
        import numpy as np

        self._runner, self._options = _for_any_batch(runner), options
        self._info = runner.info
        self._output = runner.info.outputs[0].name
        self.calls = self.rows = self._steps_done = self._loops_done = 0
        self._decode_seconds = 0.0
        self.pipeline = self._pipeline(None if decode is None else self._timed(decode))
        self.sampler = self.pipeline.sampler(options.steps, options.scheduler)
        named = [spec for spec in runner.info.inputs if spec.kind == "condition"]
        zeros = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in named}
        self._conditions = {name: options.conditions.get(name, zeros[name]) for name in zeros}
        guided = options.guidance != 1
        self._none = {**self._conditions, **options.unconditional} if guided else None

    def _pipeline(self, decode: Decode | None) -> Any:
        from diffc_runtime.bundles import pipeline_of
        from diffc_runtime.errors import UnfitEngine

        info = self._runner.info
        if not self._options.settings and "scheduler" not in info.source:
            raise UnfitEngine("its engine names no scheduler")  # of a plain ONNX file
        settings = self._options.settings or {"scheduler": info.source["scheduler"]}
        pipeline = pipeline_of(settings, info.to_json(), self._denoise, decode)
        # other runners than ONNX Runtime's take the batch sizes they were built for alone
        spans = [next(iter(profile.values())) for profile in self._runner.info.profiles]
        pipeline.batches = (
            sorted({(span.min[0], span.max[0]) for span in spans}) or pipeline.batches
        )
        return pipeline

    def _denoise(self, arrays: dict[str, Array]) -> Array:
        self.calls += 1
        self.rows = len(next(iter(arrays.values())))
        return self._runner(arrays)[self._output]

    def _timed(self, decode: Decode) -> Decode:
        """``decode``, whose seconds are added up."""

        def timed(latents: Array) -> Array:
            start = time.perf_counter()
            images = decode(latents)
            self._decode_seconds += time.perf_counter() - start
            return images

        return timed

    def __call__(self) -> float:
        """Make the images once."""
        options = self._options
        start = time.perf_counter()
        self.pipeline.generate(
            options.batch, options.steps, options.seed, options.scheduler,
            guidance=options.guidance, conditions=self._conditions, unconditional=self._none,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        self._steps_done += len(self.sampler.timesteps)
        self._loops_done += 1
        return seconds

    def facts(self) -> dict[str, Any]:
        """What was done in each call, for a report's details; after the first call."""
        return {
            "steps": self._options.steps,
            "sampler": self.sampler.name,
            "guidance": self._options.guidance,
            "calls_per_step": self.calls // max(self._steps_done, 1),
            "rows_per_call": self.rows,
            "decode_ms": 1e3 * self._decode_seconds / max(self._loops_done, 1),
        }


def _for_any_batch(runner: LoadedEngine) -> LoadedEngine:
    """The runner as a server calls it: ONNX Runtime takes every batch size, padded to none."""
    widened: Callable[[], LoadedEngine] | None = getattr(runner, "any_batch", None)
    return runner if widened is None else widened()


def loop_call(runner: LoadedEngine, options: LoopOptions, decode: Decode | None = None) -> Call:
    """A call that makes ``options.batch`` images and returns its seconds."""
    return TimedLoop(runner, options, decode)


def decode_with(decoder: LoadedEngine) -> Decode:
    """Latents of any batch -> images, by an engine of the VAE's decoder."""
    from diffc_runtime.bundles import batched_decoder

    info = decoder.info
    (latent,) = info.inputs
    name = info.outputs[0].name
    spans = [next(iter(profile.values())) for profile in info.profiles]
    batches = sorted({(span.min[0], span.max[0]) for span in spans}) or [(1, 1)]

    def run(arrays: dict[str, Array]) -> Array:
        return decoder(arrays)[name]

    return batched_decoder(run, latent.name, latent.dtype, batches, latent.shape)


def measure_loops(
    dense: LoadedEngine,
    compressed: LoadedEngine,
    sides: Mapping[str, LoopOptions],
    timing: LatencyOptions,
    decoder: LoadedEngine | None = None,
) -> Work[tuple[Timings, dict[str, dict[str, Any]]]]:
    """Time each engine's loop in turn; the times, and what each call of a side did.

    Args:
        dense: The dense model's engine.
        compressed: The compressed model's.
        sides: What each of them does: ``dense`` and ``compressed``.
        timing: How long to measure; without a warm-up, the first images say how long one lasts.
        decoder: The engine of the VAE's decoder.
    """
    decode = decode_with(decoder) if decoder is not None else None
    loops = {
        "dense": TimedLoop(dense, sides["dense"], decode),
        "compressed": TimedLoop(compressed, sides["compressed"], decode),
    }
    first = None if timing.warmup_seconds else {side: loop() for side, loop in loops.items()}
    timings = yield from interleaved(loops, timing, first=first)
    return timings, {side: loop.facts() for side, loop in loops.items()}
