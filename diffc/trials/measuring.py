"""The stages that measure engines of several trials in one block.

search-reference-TARGET   the dense model's reference loop: the images that others are judged by
search-points-TARGET      loops of many engines: times in turn, figures, parity, memory
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import Field

from diffc.measure.environment import read_environment
from diffc.measure.frontier.loops import WantedLoop
from diffc.measure.frontier.results import Point, PointFigure, Side
from diffc.measure.quality.measuring import metric_packages
from diffc.measure.results import MachineNoise
from diffc.recipe import Recipe
from diffc.runner import Stage, StageFolder, StageResult
from diffc.stage_inputs import FileInput
from diffc.stage_outcomes import StageOutcome
from diffc.stages.bench import MachineInput
from diffc.stages.frontier import ImageRows, served_settings
from diffc.stages.images import ImageInput
from diffc.trials.distances import METRIC, DistanceInput
from diffc_export.events import Progress, Work
from diffc_export.targets.engine import read_info
from diffc_runtime.json_types import JsonDict

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffc.measure.frontier.measuring import JudgedBy, SideWork
    from diffc_export.targets.base import Array

IMAGES = "images.safetensors"


@dataclass(frozen=True)
class EngineLoops:
    """An engine, and the loops that are measured of it.

    Attributes:
        side: ``dense`` or ``compressed``.
        variant: Which of the side's engines: '0.35 fp16'.
        engine: Its folder in the cache.
        loops: The loops.
        judged: Whether their images are made and judged.
        torch: What torch gave, for parity; None: parity is not measured.
    """

    side: Side
    variant: str
    engine: FileInput
    loops: tuple[WantedLoop, ...]
    judged: bool = True
    torch: FileInput | None = None

    @property
    def name(self) -> str:
        """'compressed 0.35 fp16'."""
        return " ".join(filter(None, (self.side, self.variant)))


@dataclass(frozen=True)
class Judging:
    """What images are made from, in every stage of a search.

    Attributes:
        n: How many images of a loop.
        seed: Of their noise.
        rows: Their conditions.
        image: What one timed image takes.
        threads: Of the engines; None: as they were built.
        metrics: The metrics of pairs.
        distance: What distances are measured to; None where no goal needs them.
    """

    n: int
    seed: int
    rows: ImageRows
    image: ImageInput
    threads: int | None
    metrics: tuple[str, ...]
    distance: DistanceInput | None = None


class ReferenceOutcome(StageOutcome):
    """The reference loop's images.

    Attributes:
        shape: Of one.
        distance: Their own distance to the data.
    """

    shape: list[int] = Field(default_factory=list)
    distance: PointFigure | None = None


class PointsOutcome(StageOutcome):
    """What was measured of some engines.

    Attributes:
        points: Of every engine's loops, in the order of the inputs.
        parity: Engine -> why it failed; without those that passed.
        memory: Engine -> bytes at its peak; empty where no goal needs them.
        noise: The machine's.
        notes: What is to be said of every loop.
        details: Threads, rounds, cores.
    """

    points: list[Point] = Field(default_factory=list)
    parity: dict[str, str] = Field(default_factory=dict)
    memory: dict[str, float] = Field(default_factory=dict)
    noise: MachineNoise | None = None
    notes: list[str] = Field(default_factory=list)
    details: JsonDict = Field(default_factory=dict)


@dataclass(frozen=True)
class ReferenceInputs:
    """What the reference images follow from."""

    engine: EngineLoops
    judging: Judging


@dataclass(frozen=True)
class PointsInputs:
    """What the figures of engines follow from.

    Attributes:
        engines: The engines and their loops.
        reference: The reference loop's images.
        judging: What images are made from.
        rounds: How often each loop is timed at least; 0: not at all.
        memory: Whether each engine's memory is measured.
        batch: The batch size of that.
        fingerprint: The machine.
    """

    engines: tuple[EngineLoops, ...]
    reference: StageResult[ReferenceOutcome]
    judging: Judging
    rounds: int
    memory: bool
    batch: int
    fingerprint: MachineInput


_MOST_SECONDS = 120.0


def reference_stage(
    target: str, recipe: Recipe, engine: EngineLoops, judging: Judging
) -> Stage[ReferenceInputs, ReferenceOutcome]:
    """The reference loop's images, by the most exact dense engine."""
    packages = _packages(recipe, judging)
    inputs = ReferenceInputs(engine, judging)
    return Stage(
        f"search-reference-{target}", 1, inputs, reference, ReferenceOutcome, packages=packages
    )


def points_stage(
    target: str,
    recipe: Recipe,
    engines: Sequence[EngineLoops],
    reference: StageResult[ReferenceOutcome],
    judging: Judging,
    *,
    rounds: int,
    memory: bool = False,
) -> Stage[PointsInputs, PointsOutcome]:
    """Return the stage that judges and times the loops of several engines in one block.

    Args:
        target: The target.
        recipe: Every option.
        engines: The engines, each with its loops.
        reference: The reference loop's images.
        judging: What the images are compared by.
        rounds: How often each loop is timed.
        memory: True measures each engine's memory as well.
    """
    inputs = PointsInputs(
        engines=tuple(engines),
        reference=reference,
        judging=judging,
        rounds=rounds,
        memory=memory,
        batch=min(recipe.build.batch),
        fingerprint=MachineInput(read_environment()),
    )
    packages = _packages(recipe, judging)
    return Stage(f"search-points-{target}", 2, inputs, points, PointsOutcome, packages=packages)


def _packages(recipe: Recipe, judging: Judging) -> tuple[str, ...]:
    own = () if judging.distance is None else ("torch", "diffusers")
    return (*own, *metric_packages(recipe.quality))


def reference(inputs: ReferenceInputs, folder: StageFolder) -> Work[ReferenceOutcome]:
    """Make the images, and their own distance where it is wanted."""
    from safetensors.numpy import save_file

    from diffc.measure.frontier.measuring import JudgedBy, reference_images

    judging, rows = inputs.judging, inputs.judging.rows
    blank = JudgedBy(_nothing(), judging.seed, rows.conditions, rows.unconditional, ())
    side, options = _side(inputs.engine, judging), judging.image.options
    images = yield from reference_images(side, options, blank, judging.n, judging.threads)
    save_file({"images": images.astype("float16")}, folder.out / IMAGES)
    measure = yield from _distance_of(judging)
    figure = None if measure is None else measure(images)
    return ReferenceOutcome(shape=list(images.shape[1:]), distance=figure)


def points(inputs: PointsInputs, folder: StageFolder) -> Work[PointsOutcome]:
    """Parity and memory of each engine; then figures and times of every loop."""
    from diffc.measure.frontier.measuring import measure_points
    from diffc.measure.latency import LatencyOptions

    judging, rounds = inputs.judging, inputs.rounds
    parity = yield from _parities(inputs)
    memory = yield from _memories(inputs)
    sides = [_side(one, judging) for one in inputs.engines]
    timing = LatencyOptions(
        rounds=rounds, seconds=0.0, most_seconds=_MOST_SECONDS, warmup_seconds=0.0
    )
    judged = yield from _judged_by(inputs)
    measured = yield from measure_points(
        sides, judging.image.options, judged, timing if rounds else None, judging.threads
    )
    return PointsOutcome(
        points=measured.points,
        parity=parity,
        memory=memory,
        noise=measured.noise,
        notes=measured.notes,
        details=measured.details,
    )


def _side(one: EngineLoops, judging: Judging) -> SideWork:
    from diffc.measure.frontier.measuring import SideWork

    settings = served_settings(read_info(one.engine.path), judging.image.options.decoder)
    return SideWork(one.side, one.engine.path, settings, one.loops, one.judged, variant=one.variant)


def _judged_by(inputs: PointsInputs) -> Work[JudgedBy]:
    import numpy as np
    from safetensors.numpy import load_file

    from diffc.measure.frontier.measuring import JudgedBy

    judging, rows = inputs.judging, inputs.judging.rows
    images = load_file(inputs.reference.folder / IMAGES)["images"].astype(np.float32)
    measure = yield from _distance_of(judging)
    more = None if measure is None else {METRIC: measure}
    return JudgedBy(
        images, judging.seed, rows.conditions, rows.unconditional, judging.metrics, more
    )


def _distance_of(judging: Judging) -> Work[Callable[[Array], PointFigure] | None]:
    if judging.distance is None:
        return None
    from diffc.trials.distances import distance_to

    return (yield from distance_to(judging.distance, judging.rows))


def _nothing() -> Array:
    import numpy as np

    return np.empty((0,), np.float32)


def _parities(inputs: PointsInputs) -> Work[dict[str, str]]:
    """Engine -> why it does not compute what torch computes."""
    from diffc.measure.engines import open_engines
    from diffc.measure.parity import measure_parity

    failed = {}
    for number, one in enumerate(inputs.engines):
        if one.torch is None:
            continue
        yield Progress(number, len(inputs.engines), f"parity of {one.name}")
        with open_engines({one.name: one.engine.path}, inputs.judging.threads) as runners:
            parity = yield from measure_parity(runners[one.name], one.torch.path)
        if not parity.passed:
            failed[one.name] = parity.reason or f"relative error {parity.rel_l2}"
    return failed


def _memories(inputs: PointsInputs) -> Work[dict[str, float]]:
    """Engine -> bytes at its peak: of the GPU where it runs on one, else of a fresh process."""
    from diffc.measure.memory import measure_memory
    from diffc_export.targets import on_gpu

    peaks: dict[str, float] = {}
    for number, one in enumerate(inputs.engines if inputs.memory else ()):
        yield Progress(number, len(inputs.engines), f"memory of {one.name}")
        threads, path = inputs.judging.threads, one.engine.path
        memory = measure_memory(path, inputs.batch, split=False, threads=threads)
        gpu = on_gpu(read_info(path).target)
        peak = memory.device_bytes if gpu else memory.peak_bytes
        if peak is not None:
            peaks[one.name] = float(peak)
    return peaks


def by_engine(outcome: PointsOutcome, engines: Sequence[EngineLoops]) -> list[list[Point]]:
    """The points of each engine, in the order of its loops."""
    points, start = [], 0
    for one in engines:
        points.append(outcome.points[start : start + len(one.loops)])
        start += len(one.loops)
    return points
