"""What one image of a check is made with: the loop of the run that an engine came from."""

from __future__ import annotations

from collections.abc import Mapping

from diffc.data.loops import run_loops
from diffc.gate.pairing import Pair
from diffc.gate.subject import CheckedEngine
from diffc.measure.loop import LoopOptions
from diffc.recipe import Recipe
from diffc_runtime.schedulers import sampler_words


def image_options(pair: Pair, batch: int) -> dict[str, LoopOptions]:
    """``baseline`` and ``candidate`` -> what its image is made with: each has its run's loop."""
    sides = {"baseline": pair.baseline, "candidate": pair.candidate}
    return {name: _options(engine, batch) for name, engine in sides.items()}


def loop_words(loops: Mapping[str, LoopOptions]) -> str:
    """'8 steps DDIM', and what it was before where that was another loop."""
    before, now = (_words(loops[name]) for name in ("baseline", "candidate"))
    return now if now == before else f"{now} (before: {before})"


def _options(engine: CheckedEngine, batch: int) -> LoopOptions:
    """The run's loop; the usual one for an engine of no run."""
    config = engine.info.source.get("scheduler") or {}
    loop = engine.loop or run_loops(Recipe(), config).first
    is_guided = any(spec.kind == "condition" for spec in engine.info.inputs)
    return LoopOptions(
        steps=loop.steps or 1,
        batch=batch,
        scheduler=loop.sampler,
        guidance=(loop.guidance or 1.0) if is_guided else 1.0,
        settings={"scheduler": dict(loop.config(config))} if config else None,
    )


def _words(options: LoopOptions) -> str:
    plural = "" if options.steps == 1 else "s"
    guided = "" if options.guidance == 1 else f", guidance {options.guidance:g}"
    return f"{options.steps} step{plural} {sampler_words(options.scheduler or '')}{guided}"
