"""The bench stages: dense against compressed on one target. Figures alone, no files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffc.measure.environment import Environment, read_environment
from diffc.measure.frontier.served import BRIEF
from diffc.measure.latency import LatencyOptions
from diffc.output import SIDES, engine_folder, reference_file
from diffc.recipe import MeasureSection, Recipe
from diffc.runner import Stage, StageFolder
from diffc.stage_inputs import FileInput, SectionInput
from diffc.stage_outcomes import BenchOutcome
from diffc.stages.images import ImageInput, image_input
from diffc.stages.judged_samples import judged_samples
from diffc_export.events import Work
from diffc_export.targets.engine import engine_digest

FEW_IMAGES = 2
"""Images of each engine that are timed here where the frontier times them again, with all others:
enough for what is not of the frontier, such as the calls of a step."""


@dataclass(frozen=True)
class MachineInput:
    """The machine that figures are of. The key holds what makes two machines differ."""

    environment: Environment

    def keyed(self) -> object:
        """The fingerprint."""
        return self.environment.fingerprint


@dataclass(frozen=True)
class BenchInputs:
    """What figures follow from.

    Attributes:
        engines: Side -> its engine folder.
        references: Side -> what torch gave.
        images: What making an image takes.
        timed_again: Whether the frontier times whole images after this.
        options: How long to measure.
        batch: The batch sizes to time.
        threads: Of the engines; None: those that they were built with.
        fingerprint: The machine.
    """

    engines: dict[str, FileInput]
    references: dict[str, FileInput]
    images: ImageInput
    timed_again: bool
    options: SectionInput[MeasureSection]
    batch: tuple[int, ...]
    threads: int | None
    fingerprint: MachineInput


def bench_stage(out: Path, recipe: Recipe, name: str) -> Stage[BenchInputs, BenchOutcome]:
    """Figures of one target."""
    inputs = BenchInputs(
        engines=engine_inputs(out, name),
        references=reference_inputs(out),
        images=image_input(out, recipe, name),
        timed_again=recipe.measure.frontier != "off" and judged_samples(out) is not None,
        options=timing_options(recipe),
        batch=recipe.build.batch,
        threads=recipe.build.threads,
        fingerprint=MachineInput(read_environment()),
    )
    return Stage(f"bench-{name}", 15, inputs, bench, BenchOutcome)


def bench(inputs: BenchInputs, folder: StageFolder) -> Work[BenchOutcome]:
    """Time engine calls and whole images; measure memory and parity."""
    from diffc.measure.compare import measure_loop, measure_target
    from diffc.measure.engines import MeasureOptions

    options = inputs.options.section
    measure = MeasureOptions(
        batch=inputs.batch,
        threads=inputs.threads,
        latency=LatencyOptions(rounds=options.runs, seconds=options.seconds),
        references={side: file.path for side, file in inputs.references.items()},
    )
    loop = MeasureOptions(
        threads=inputs.threads,
        latency=_image_timing(inputs),
        loop=inputs.images.options,
        reference=inputs.images.reference,
    )
    dense, compressed = (inputs.engines[side].path for side in SIDES)
    results = yield from measure_target(dense, compressed, measure)
    whole = yield from measure_loop(dense, compressed, loop)
    if inputs.timed_again:
        whole = whole.model_copy(update={"details": {**whole.details, BRIEF: True}})
    environment = inputs.fingerprint.environment.model_dump(mode="json")
    return BenchOutcome(targets=results, pipeline=whole, environment=environment)


def _image_timing(inputs: BenchInputs) -> LatencyOptions:
    options = inputs.options.section
    if inputs.timed_again:
        # the engines are warm from their single calls
        return LatencyOptions(
            rounds=min(options.loop_runs, FEW_IMAGES), seconds=0.0, warmup_seconds=0.0
        )
    return LatencyOptions(rounds=options.loop_runs, seconds=options.seconds)


def timing_options(recipe: Recipe) -> SectionInput[MeasureSection]:
    """What decides the times of engines: ``measure`` without the loops of the frontier."""
    return SectionInput(recipe.measure, without=("frontier",))


def engine_inputs(out: Path, name: str) -> dict[str, FileInput]:
    """Side -> its engine folder, of one target."""
    folders = {side: engine_folder(out, name, side) for side in SIDES}
    return {side: FileInput(path, engine_digest(path)) for side, path in folders.items()}


def reference_inputs(out: Path) -> dict[str, FileInput]:
    """Side -> what torch gave. Raises InputError where a file is missing."""
    return {side: FileInput.of(reference_file(out, side)) for side in SIDES}
