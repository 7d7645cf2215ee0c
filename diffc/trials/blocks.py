"""Engines of several trials measured in one block: which loops each has, and what came of them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffc.data.loops import run_loops
from diffc.judged import usual_guidance
from diffc.measure.frontier.loops import WantedLoop, resolved
from diffc.measure.frontier.results import Point, Side
from diffc.measure.quality.ssim import METRIC as SSIM_METRIC
from diffc.models.source import Source
from diffc.runner import StageEvent, StageResult, StageRunner
from diffc.stage_inputs import FileInput, ModelInput, RunShape
from diffc.stages.frontier import image_rows
from diffc.stages.images import image_input
from diffc.stages.precision import ORDER
from diffc.trials.distances import DistanceInput
from diffc.trials.goals import DISTANCE, MEMORY, Goals
from diffc.trials.measuring import (
    EngineLoops,
    Judging,
    PointsOutcome,
    ReferenceOutcome,
    by_engine,
    points_stage,
    reference_stage,
)
from diffc.trials.space import Choice, Space, word, words_of
from diffc.trials.trials import Engines, TrialDone, trial_recipe
from diffc_export.targets.engine import read_info
from diffc_runtime.json_types import JsonObject
from diffc_runtime.loop import Loop

BlockWork = Generator[StageEvent, None, "Block"]
_ROUNDS_BEFORE, _ROUNDS_AFTER = 5, 10
_DENSE: Side = "dense"
_COMPRESSED: Side = "compressed"


@dataclass(frozen=True)
class Block:
    """What one block measured.

    Attributes:
        outcome: As the stage found it out.
        points: Candidate -> its point.
        dense: The dense model's points.
        reference: The dense model's reference loop; None where it is not in the block.
    """

    outcome: PointsOutcome
    points: Mapping[Choice, Point]
    dense: Sequence[Point]
    reference: Point | None


@dataclass(frozen=True)
class Ready:
    """A trial's engines.

    Attributes:
        done: The trial.
        engines: Precision -> engines.
    """

    done: TrialDone
    engines: Mapping[str, Engines]


@dataclass(frozen=True)
class EngineWork:
    """An engine to measure, and the candidates that its loops are, in the same order."""

    engine: EngineLoops
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Meter:
    """What all blocks of a search share.

    Attributes:
        space: The candidates.
        target: Where engines run.
        runner: Does the stages; they leave no files in OUT.
        judging: What images are made from.
        reference: The reference loop's images.
        dense: Precision -> the dense model's engine, of the precisions that there are.
        exact: The most exact of these, which the reference loop runs in.
        guidance: Of loops that say nothing.
    """

    space: Space
    target: str
    runner: StageRunner
    judging: Judging
    reference: StageResult[ReferenceOutcome]
    dense: Mapping[str, FileInput]
    exact: str
    guidance: float

    def before(self, ready: Sequence[Ready], goals: Goals) -> BlockWork:
        """Times, parity and memory of every candidate's untrained engine, and the dense loops.

        Their images are judged where training for all noise levels follows: a student of its loop
        is another function of the noise.
        """
        judged = self.space.recipe.distill.aim != "loop"
        work = list(self._dense_engines(judged=True))
        for one in ready:
            for precision in one.engines:
                mine = [c for c in self.space.candidates if self._is_of(c, one)]
                work += self._engine(one, precision, mine, judged=judged, parity=True)
        return (yield from self._block(work, _ROUNDS_BEFORE, memory=MEMORY in goals.by_name))

    def judge(self, ready: Ready, choices: Sequence[Choice]) -> BlockWork:
        """The figures of a trial's candidates, without times."""
        work: list[EngineWork] = []
        for precision in ready.engines:
            work += self._engine(ready, precision, choices, judged=True, parity=True)
        return (yield from self._block(work, 0))

    def times(self, trained: Sequence[tuple[Ready, Sequence[Choice]]]) -> BlockWork:
        """The times of everything that was trained, and of the dense loops, in turn."""
        work = list(self._dense_engines(judged=False))
        for ready, choices in trained:
            for precision in ready.engines:
                work += self._engine(ready, precision, choices, judged=False, parity=False)
        return (yield from self._block(work, _ROUNDS_AFTER))

    def _is_of(self, choice: Choice, ready: Ready) -> bool:
        return self.space.network(choice) == ready.done.trial.choice

    def _engine(
        self, ready: Ready, precision: str, choices: Sequence[Choice], *, judged: bool, parity: bool
    ) -> Iterator[EngineWork]:
        """An engine with the loops of those candidates that it is for; nothing where there is none.

        Candidates of one loop share its point.
        """
        folder = ready.engines[precision].sides.get(_COMPRESSED)
        mine = [one for one in choices if word(one, "precision") == precision]
        if folder is None or not mine:
            return
        config = _config(folder.path)
        loops = tuple(WantedLoop(self._loop(one, config), ("grid",)) for one in mine)
        variant = words_of((*ready.done.trial.choice, ("precision", precision)))
        torch = ready.done.torch if parity else None
        yield EngineWork(
            EngineLoops(_COMPRESSED, variant, folder, loops, judged, torch), tuple(mine)
        )

    def _loop(self, choice: Choice, config: JsonObject) -> Loop:
        """The loop of a candidate, as its engine serves it."""
        return resolved(run_loops(self.space.apply(choice), config, self.guidance).first, config)

    def _dense_engines(self, *, judged: bool) -> Iterator[EngineWork]:
        """The dense model's engines with every loop, the reference loop first on the exact one."""
        words = self.space.values["loop"]
        recipe = trial_recipe(self.space.recipe, "untrained").model_copy(update={"loops": words})
        for precision, folder in self.dense.items():
            config = _config(folder.path)
            loops = run_loops(recipe, config, self.guidance)
            every = [loops.reference, *loops.loops] if precision == self.exact else loops.loops
            merged = dict.fromkeys(resolved(loop, config) for loop in every)
            wanted = tuple(WantedLoop(loop, ("grid",)) for loop in merged)
            if precision == self.exact:
                wanted = (replace(wanted[0], roles=("reference",)), *wanted[1:])
            yield EngineWork(EngineLoops(_DENSE, precision, folder, wanted, judged), ())

    def _block(self, work: Sequence[EngineWork], rounds: int, *, memory: bool = False) -> BlockWork:
        engines = [one.engine for one in work]
        stage = points_stage(
            self.target,
            self.space.recipe,
            engines,
            self.reference,
            self.judging,
            rounds=rounds,
            memory=memory,
        )
        outcome = (yield from self.runner.do(stage)).result
        points: dict[Choice, Point] = {}
        dense: list[Point] = []
        for one, measured in zip(work, by_engine(outcome, engines), strict=True):
            failed = outcome.parity.get(one.engine.name)
            if failed is not None:
                words = f"the engine does not compute what torch computes: {failed}"
                measured = [point.model_copy(update={"absent": words}) for point in measured]
            if one.engine.side == _DENSE:
                dense += measured
            points |= dict(zip(one.choices, measured, strict=False))
        reference = next((point for point in dense if "reference" in point.roles), None)
        return Block(outcome, points, dense, reference)


def prepare(
    source: Source, space: Space, first: Ready, runner: StageRunner, goals: Goals
) -> Generator[StageEvent, None, Meter]:
    """What all blocks share, with the reference loop's images.

    Args:
        source: The dense model.
        space: The candidates.
        first: A trial, from whose folder conditions and reference inputs are read.
        runner: Does the stages of measuring.
        goals: What is wanted.
    """
    recipe, out = trial_recipe(space.recipe, "untrained"), first.done.out
    (target,) = recipe.build.target
    dense = {p: one.sides[_DENSE] for p, one in first.engines.items() if one.sides}
    exact = min(dense, key=ORDER.index)
    guidance, options = usual_guidance(out, recipe), recipe.quality
    data = next(one for one in first.done.runner.done if one.name == "data")
    wants = DISTANCE in goals.by_name
    distance = DistanceInput(ModelInput.denoiser(source), data, RunShape.of(recipe))  # type: ignore[arg-type]
    judging = Judging(
        n=options.images,
        seed=options.seed,
        rows=image_rows(out, target, options.seed, options.images),
        image=image_input(out, recipe, target),
        threads=recipe.build.threads,
        metrics=(SSIM_METRIC.name,),
        distance=distance if wants else None,
    )
    config = _config(dense[exact].path)
    loop = resolved(run_loops(recipe, config, guidance).reference, config)
    wanted = (WantedLoop(loop, ("reference",)),)
    engine = EngineLoops(_DENSE, exact, dense[exact], wanted)
    reference = yield from runner.do(reference_stage(target, recipe, engine, judging))
    return Meter(space, target, runner, judging, reference, dense, exact, guidance)


def _config(engine: Path) -> JsonObject:
    config: JsonObject = read_info(engine).source["scheduler"]
    return config
