"""The half of a run that needs OUT/onnx alone: engines, and what they are worth here."""

from __future__ import annotations

from collections.abc import Callable, Generator

from diffc.recipe import Recipe
from diffc.runner import StageEvent, StageRunner
from diffc.stages.bench import bench_stage
from diffc.stages.build import engine_stages
from diffc.stages.decoder import decoder_build_stage
from diffc.stages.explain import explain_stage
from diffc.stages.frontier import frontier_stage
from diffc.stages.masked_decoder import masked_decoder_build_stage
from diffc.stages.precision_auto import choose_precision
from diffc.stages.serve import serve_stage
from diffc.stages.text import text_build_stages
from diffc.stages.vae_encoder import vae_encoder_build_stage


def build_and_measure(
    runner: StageRunner, whole: Recipe, stop: str, is_anew: Callable[[str], bool]
) -> Generator[StageEvent, None, None]:
    """Do the half that needs OUT/onnx alone: engines, and what they are worth here.

    Args:
        runner: Of OUT.
        whole: Every option.
        stop: The last part, ``build`` or ``bench``.
        is_anew: Whether the stages of one of these parts are done again though they are cached.
    """
    for name in whole.build.target:
        runner.fresh = is_anew("build")
        recipe = whole.for_target(name)
        if recipe.build.precision == "auto":
            recipe = yield from choose_precision(runner, recipe, name)
        yield from engine_stages(runner, recipe, name)
        yield from runner.do_if_any(decoder_build_stage(runner.out, recipe, name))
        yield from runner.do_if_any(vae_encoder_build_stage(runner.out, recipe, name))
        yield from runner.do_if_any(masked_decoder_build_stage(runner.out, recipe, name))
        for encoder in text_build_stages(runner.out, recipe, name):
            yield from runner.do(encoder)
        if stop == "bench":
            runner.fresh = is_anew("bench")
            yield from _measure(runner, recipe, name)


def _measure(runner: StageRunner, recipe: Recipe, name: str) -> Generator[StageEvent, None, None]:
    """What the engines of one target are worth here."""
    bench = yield from runner.do(bench_stage(runner.out, recipe, name))
    yield from runner.do_if_any(frontier_stage(runner.out, recipe, bench.result.targets))
    yield from runner.do_if_any(explain_stage(runner.out, recipe, name))
    yield from runner.do_if_any(serve_stage(runner.out, recipe, name))
