"""``--precision auto``: which precision a target gets is measured, not guessed.

Every precision that the target has is built for both sides, and the compressed engines are timed in
turn. From the most exact one on, a lower one is taken when both of its engines pass parity and it
is faster than the one held beyond the noise: the whole 95 % interval of paired ratios lies above 1.
So int8 that is slower than fp32 here, as it is on some processors, is not what anyone gets.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffc.chain import back
from diffc.errors import CheckFailed, DiffcError
from diffc.measure.results import (
    Closeness,
    Parity,
    PrecisionChoice,
    PrecisionTry,
    Speedup,
)
from diffc.measure.statistics import Ratio
from diffc.recipe import Recipe
from diffc.stages import Room, Runner, Stage, StageEvent
from diffc_export.events import Progress, Work
from diffc_export.targets.engine import engine_digest
from diffc_runtime.files import file_digest

EXACT = "fp32"
ORDER = (EXACT, "fp16", "bf16", "fp8", "int8")
"""From the most exact to the least."""

Engines = Mapping[str, Mapping[str, Path]]
"""Precision -> side -> engine folder."""


def choose_precision(
    runner: Runner, recipe: Recipe, name: str
) -> Generator[StageEvent, None, Recipe]:
    """``recipe`` (of one target) with the precision that measuring chose.

    A precision that cannot be had here is out, with its reason in the report; fp32 must build.
    """
    from diffc_export.targets import target

    engines: dict[str, dict[str, Path]] = {}
    absent: dict[str, str] = {}
    for precision in (p for p in ORDER if p in target(name).precisions()):
        try:
            asked = _with_precision(recipe, precision)
            engines[precision] = yield from back.engine_stages(runner, asked, name)
        except DiffcError as error:
            if precision == EXACT:
                raise
            absent[precision] = str(error)
    done = yield from runner.do(choice_stage(runner.out, recipe, name, engines, absent))
    return _with_precision(recipe, done.result["choice"]["chosen"])


def _with_precision(recipe: Recipe, precision: str) -> Recipe:
    build = recipe.build.model_copy(update={"precision": precision})
    return recipe.model_copy(update={"build": build})


def choice_stage(
    out: Path, recipe: Recipe, name: str, engines: Engines, absent: Mapping[str, str]
) -> Stage:
    """Times, parity and SSIM of every precision of one target, and the one that is taken."""
    from diffc.measure.environment import read_environment

    references = {side: back.reference_file(out, side)
                  for side in back.SIDES}  # fmt: skip
    inputs = {
        "engines": {precision: {side: engine_digest(path) for side, path in sides.items()}
                    for precision, sides in engines.items()},
        "absent": dict(absent),
        "references": {side: file_digest(path) for side, path in references.items()},
        "options": [recipe.measure.runs, recipe.measure.seconds, recipe.build.batch[0],
                    recipe.build.threads],
        "fingerprint": read_environment().fingerprint,
    }  # fmt: skip

    def run(_room: Room) -> Work[dict[str, Any]]:
        tries, ratio = yield from _measured(recipe, engines, references)
        tries += [PrecisionTry(precision=p, absent=why) for p, why in absent.items()]
        choice = PrecisionChoice(
            target=name, batch=recipe.build.batch[0], chosen=chosen(tries, ratio), tries=tries
        )
        return {"choice": choice.model_dump(mode="json")}

    return Stage(f"choose-{name}", 1, inputs, run)


RatioOf = Callable[[str, str], Ratio]


def _measured(
    recipe: Recipe, engines: Engines, references: Mapping[str, Path]
) -> Work[tuple[list[PrecisionTry], RatioOf]]:
    from diffc.measure.engines import open_engines, time_engines
    from diffc.measure.latency import LatencyOptions
    from diffc.measure.results import Latency

    build, measure = recipe.build, recipe.measure
    folders = {precision: sides["compressed"] for precision, sides in engines.items()}
    options = LatencyOptions(rounds=measure.runs, seconds=measure.seconds)
    with open_engines(folders, build.threads) as runners:
        timings = yield from time_engines(
            runners, build.batch[0], options, references["compressed"]
        )
    tries: list[PrecisionTry] = []
    for precision in engines:
        yield Progress(len(tries), len(engines), f"parity of {precision}")
        parity, ssim = yield from _closeness(engines, precision, references, build.threads)
        tries.append(PrecisionTry(
            precision=precision,
            latency_ms=Latency.model_validate(timings.percentiles_ms(precision)),
            over_fp32=Speedup.of(timings.ratio(EXACT, precision)),
            parity=parity,
            ssim=ssim,
        ))  # fmt: skip
    return tries, timings.ratio


def _closeness(
    engines: Engines, precision: str, references: Mapping[str, Path], threads: int | None
) -> Work[tuple[dict[str, Parity], dict[str, Closeness]]]:
    """Parity of both sides against torch, and SSIM against their own fp32 engines."""
    from diffc.measure.engines import open_engines
    from diffc.measure.parity import closeness, measure_parity

    parity: dict[str, Parity] = {}
    ssim: dict[str, Closeness] = {}
    for side in back.SIDES:
        pair = {precision: engines[precision][side], EXACT: engines[EXACT][side]}
        with open_engines(pair, threads) as runners:
            parity[side] = yield from measure_parity(runners[precision], references[side])
            if precision != EXACT:
                found = closeness(runners[precision], runners[EXACT], references[side])
                ssim |= {} if found is None else {side: found}
    return parity, ssim


def chosen(tries: Sequence[PrecisionTry], ratio: RatioOf) -> str:
    """The rule of this module. Raises CheckFailed when not even one precision passes parity."""
    passing = [one.precision for one in tries
               if one.absent is None and all(p.passed for p in one.parity.values())]  # fmt: skip
    if not passing:
        reasons = "; ".join(
            f"{one.precision}, {side}: {parity.reason}"
            for one in tries for side, parity in one.parity.items() if not parity.passed
        )  # fmt: skip
        raise CheckFailed(
            f"no precision passes parity: {reasons}",
            hint="the runtime or the export is at fault: try another target",
        )
    held = passing[0]
    for precision in passing[1:]:
        if ratio(held, precision).ci95[0] > 1:
            held = precision
    return held
