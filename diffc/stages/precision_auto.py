"""``--precision auto``: which precision a target gets is measured, not guessed.

Every precision that the target has is built for both sides, and the compressed engines are timed in
turn. From the most exact one on, a lower one is taken when both of its engines pass parity and it
is faster beyond the noise than the one taken so far: the whole 95 % interval of paired ratios lies
above 1. So int8 that is slower than fp32 here, as it is on some processors, is not what anyone
gets.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffc.errors import CheckFailed, DiffcError
from diffc.measure.results import (
    Closeness,
    Parity,
    PrecisionChoice,
    PrecisionTry,
    Speedup,
)
from diffc.measure.statistics import Ratio
from diffc.output import SIDES
from diffc.recipe import Recipe
from diffc.runner import Stage, StageEvent, StageFolder, StageRunner
from diffc.stage_inputs import FileInput
from diffc.stage_outcomes import ChoiceOutcome
from diffc.stages.bench import MachineInput, reference_inputs
from diffc.stages.build import engine_stages
from diffc.stages.precision import EXACT, tried_precisions
from diffc_export.events import Progress, Work
from diffc_export.targets.engine import engine_digest

Engines = Mapping[str, Mapping[str, FileInput]]
"""Precision -> side -> engine folder."""


@dataclass(frozen=True)
class ChoiceInputs:
    """What the choice of a precision follows from.

    Attributes:
        target: The target.
        engines: Precision -> side -> its engine folder in the cache.
        absent: Precision -> why there is no engine of it.
        references: Side -> what torch gave.
        runs: The fewest calls of each engine.
        seconds: The shortest time for each engine.
        batch: The batch size to time.
        threads: Of the engines; None: those that they were built with.
        fingerprint: The machine.
    """

    target: str
    engines: Engines
    absent: Mapping[str, str]
    references: dict[str, FileInput]
    runs: int
    seconds: float
    batch: int
    threads: int | None
    fingerprint: MachineInput


def choose_precision(
    runner: StageRunner, recipe: Recipe, name: str
) -> Generator[StageEvent, None, Recipe]:
    """``recipe`` (of one target) with the precision that measuring chose.

    A precision that cannot be had here is out, with its reason in the report; fp32 must build.
    """
    engines: dict[str, dict[str, FileInput]] = {}
    absent: dict[str, str] = {}
    for precision in tried_precisions(name, recipe.build.precision):
        try:
            lowered = _with_precision(recipe, precision)
            folders = yield from engine_stages(runner, lowered, name)
        except DiffcError as error:
            if precision == EXACT:
                raise
            absent[precision] = str(error)
        else:
            engines[precision] = {side: engine_input(path) for side, path in folders.items()}
    done = yield from runner.do(choice_stage(runner.out, recipe, name, engines, absent))
    return _with_precision(recipe, done.result.choice.chosen)


def _with_precision(recipe: Recipe, precision: str) -> Recipe:
    build = recipe.build.model_copy(update={"precision": precision})
    return recipe.model_copy(update={"build": build})


def engine_input(folder: Path) -> FileInput:
    """An engine folder by what decides its figures."""
    return FileInput(folder, engine_digest(folder))


def choice_stage(
    out: Path, recipe: Recipe, name: str, engines: Engines, absent: Mapping[str, str]
) -> Stage[ChoiceInputs, ChoiceOutcome]:
    """Return the stage that times every precision of one target and takes one.

    Args:
        out: The output folder.
        recipe: Every option, of one target.
        name: The target.
        engines: Precision -> side -> its engine folder.
        absent: Precision -> why there is no engine of it.
    """
    from diffc.measure.environment import read_environment

    inputs = ChoiceInputs(
        target=name,
        engines=engines,
        absent=absent,
        references=reference_inputs(out),
        runs=recipe.measure.runs,
        seconds=recipe.measure.seconds,
        batch=recipe.build.batch[0],
        threads=recipe.build.threads,
        fingerprint=MachineInput(read_environment()),
    )
    return Stage(f"choose-{name}", 3, inputs, choose, ChoiceOutcome)


def choose(inputs: ChoiceInputs, folder: StageFolder) -> Work[ChoiceOutcome]:
    """Time every precision, and take one by the rule of this module."""
    tries, ratio = yield from _try_all(inputs)
    tries += [PrecisionTry(precision=p, absent=why) for p, why in inputs.absent.items()]
    best = best_precision(tries, ratio)
    choice = PrecisionChoice(target=inputs.target, batch=inputs.batch, chosen=best, tries=tries)
    return ChoiceOutcome(choice=choice)


RatioOf = Callable[[str, str], Ratio]


def _try_all(inputs: ChoiceInputs) -> Work[tuple[list[PrecisionTry], RatioOf]]:
    from diffc.measure.engines import open_engines, time_engines
    from diffc.measure.latency import LatencyOptions
    from diffc.measure.results import Latency

    folders = {name: sides["compressed"].path for name, sides in inputs.engines.items()}
    options = LatencyOptions(rounds=inputs.runs, seconds=inputs.seconds)
    reference = inputs.references["compressed"].path
    with open_engines(folders, inputs.threads) as runners:
        timings = yield from time_engines(runners, inputs.batch, options, reference)
    tries: list[PrecisionTry] = []
    for precision in inputs.engines:
        yield Progress(len(tries), len(inputs.engines), f"parity of {precision}")
        parity, ssim = yield from _closeness(inputs, precision)
        one = PrecisionTry(
            precision=precision,
            latency_ms=Latency.model_validate(timings.percentiles_ms(precision)),
            over_fp32=Speedup.of(timings.ratio(EXACT, precision)),
            parity=parity,
            ssim=ssim,
        )
        tries.append(one)
    return tries, timings.ratio


def _closeness(
    inputs: ChoiceInputs, precision: str
) -> Work[tuple[dict[str, Parity], dict[str, Closeness]]]:
    """Parity of both sides against torch, and SSIM against their own fp32 engines."""
    from diffc.measure.engines import open_engines
    from diffc.measure.parity import closeness, measure_parity

    parity: dict[str, Parity] = {}
    ssim: dict[str, Closeness] = {}
    for side in SIDES:
        reference = inputs.references[side].path
        pair = {name: inputs.engines[name][side].path for name in (precision, EXACT)}
        with open_engines(pair, inputs.threads) as runners:
            parity[side] = yield from measure_parity(runners[precision], reference)
            if precision != EXACT:
                likeness = closeness(runners[precision], runners[EXACT], reference)
                ssim |= {} if likeness is None else {side: likeness}
    return parity, ssim


def best_precision(tries: Sequence[PrecisionTry], ratio: RatioOf) -> str:
    """The rule of this module. Raises CheckFailed when not even one precision passes parity."""
    passing = [
        one.precision
        for one in tries
        if one.absent is None and all(parity.passed for parity in one.parity.values())
    ]
    if not passing:
        reasons = "; ".join(
            f"{one.precision}, {side}: {parity.reason}"
            for one in tries
            for side, parity in one.parity.items()
            if not parity.passed
        )
        raise CheckFailed(
            f"no precision passes parity: {reasons}",
            hint="the runtime or the export is at fault: try another target",
        )
    best = passing[0]
    for precision in passing[1:]:
        if ratio(best, precision).ci95[0] > 1:
            best = precision
    return best
