"""The distill-loop stage: the student learns the loops that are served. OUT/model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffc.launch import process_rank
from diffc.models.source import Source, find_source
from diffc.placing import clear_folder
from diffc.recipe import LoopTrainingSection, LowRankSection, Recipe
from diffc.recipe.sections.training import NOT_IN_KEYS, WEIGHT_BYTES
from diffc.runner import Stage, StageFolder, StageResult
from diffc.stage_inputs import ModelInput, RunShape, SectionInput
from diffc.stage_outcomes import (
    DataOutcome,
    DistillOutcome,
    LoopDistillOutcome,
    TrajectoriesOutcome,
)
from diffc.stage_records import STATE
from diffc.stages.data import CLEAN, DRAWN_STATES, model_packages
from diffc.stages.distill import DISTILLED, MODEL, model_place, pruning_facts
from diffc.stages.trajectories import TRAJECTORIES, TrajectoriesInputs
from diffc_export.events import Work
from diffc_runtime.loop import Loop

if TYPE_CHECKING:
    from diffc.models.denoiser import Denoiser


@dataclass(frozen=True)
class LoopInputs:
    """What the student of some loops follows from.

    Attributes:
        model: The dense model, whose features are compared.
        parts: What is saved beside the denoiser.
        scheduler: The dense pipeline's scheduler_config.json.
        data: The conditions.
        distilled: The student of all noise levels, from which training starts.
        trajectories: What it learns from.
        loops: What it learns.
        options: How to train.
        low_rank: The additions that are trained in the place of the weights, if there are any.
        shape: What the denoiser's inputs are like.
        seed: Of everything random.
    """

    model: ModelInput
    parts: ModelInput
    scheduler: dict[str, object]
    data: StageResult[DataOutcome]
    distilled: StageResult[DistillOutcome]
    trajectories: StageResult[TrajectoriesOutcome]
    loops: tuple[Loop, ...]
    options: SectionInput[LoopTrainingSection]
    low_rank: LowRankSection
    shape: RunShape
    seed: int


def distill_loop_stage(
    source: Source,
    recipe: Recipe,
    visited: TrajectoriesInputs,
    distilled: StageResult[DistillOutcome],
    trajectories: StageResult[TrajectoriesOutcome],
) -> Stage[LoopInputs, LoopDistillOutcome]:
    """The compressed model, for its loops alone.

    Args:
        source: The dense model.
        recipe: The options.
        visited: What the trajectories were made from.
        distilled: The student of all noise levels.
        trajectories: The outcome of their stage.
    """
    inputs = LoopInputs(
        model=ModelInput.denoiser(source),
        parts=ModelInput.parts(source),
        scheduler=dict(source.scheduler),
        data=visited.data,
        distilled=distilled,
        trajectories=trajectories,
        loops=visited.loops,
        options=SectionInput(recipe.distill.loop, without=NOT_IN_KEYS),
        low_rank=recipe.distill.low_rank,
        shape=RunShape.of(recipe),
        seed=recipe.seed,
    )
    packages = (*model_packages(source), "accelerate")
    places = {MODEL: model_place(recipe)}
    return Stage(
        "distill-loop", 4, inputs, distill_loop, LoopDistillOutcome, places, packages,
        collective=True,
    )  # fmt: skip


def forget_loops(out: Path) -> None:
    """Remove what an earlier run left in OUT of a student of loops: the model is another now."""
    for name in ("distill-loop", "trajectories"):
        (out / STATE / f"{name}.json").unlink(missing_ok=True)
    (out / STATE / DRAWN_STATES).unlink(missing_ok=True)
    clear_folder(out / STATE / TRAJECTORIES)
    clear_folder(out / DISTILLED)


def distill_loop(inputs: LoopInputs, folder: StageFolder) -> Work[LoopDistillOutcome]:
    """Train, and write the pipeline with the scheduler that samples the student."""
    from diffc.data.clean import CleanSet
    from diffc.data.sharding import reads_weights
    from diffc.distill.loop.lesson import LoopLesson
    from diffc.distill.loop.steps import loop_steps, sampler_settings, student_scheduler
    from diffc.distill.loop.trajectories import TrajectorySet
    from diffc.distill.run import TrainingSettings
    from diffc.distill.train import train
    from diffc.models.save import save_compressed, write_scheduler

    before = inputs.distilled.folder / MODEL
    source, cut = inputs.model.source, find_source(before)
    options, shape = inputs.options.section, inputs.shape
    each = inputs.low_rank.bytes_of_student
    shard = shape.wants_sharding((cut, each), (source, WEIGHT_BYTES))
    student = shape.open(cut) if reads_weights(shard) else shape.open_on_meta(cut)
    clean = CleanSet.load(inputs.data.folder / CLEAN)
    dense_way = TrajectorySet.load(inputs.trajectories.folder / TRAJECTORIES, clean)
    scheduler = student_scheduler(inputs.scheduler, inputs.loops[0].spacing)
    settings = sampler_settings(scheduler, student.sample_shape)
    loops = [loop_steps(loop, settings) for loop in inputs.loops]
    dense = _dense(inputs, shard) if options.features else None
    lesson = LoopLesson(student, dense_way, loops, options, inputs.seed, dense)
    how = TrainingSettings(
        options=options,
        folder=folder.scratch,
        seed=inputs.seed,
        logs=folder.logs,
        shard=shard,
        low_rank=inputs.low_rank,
        section="distill.loop",
    )
    result = yield from train(lesson, student.model, how)
    names = [str(loop) for loop in inputs.loops]
    facts = {**pruning_facts(before), "loops": names}
    if process_rank() == 0:
        save_compressed(student.model, inputs.parts.source, folder.out / MODEL, facts, plain=True)
        write_scheduler(folder.out / MODEL, scheduler)
    return LoopDistillOutcome(
        steps=result.steps,
        resumed_from=result.resumed_from,
        losses=result.losses,
        images_per_second=result.images_per_second,
        precision=result.precision,
        notes=result.notes,
        loops=names,
        guidance=inputs.trajectories.result.guidance,
    )


def _dense(inputs: LoopInputs, shard: bool) -> Denoiser:
    """The dense model, whose features are compared."""
    from diffc.data.precision import best_device
    from diffc.distill.setup import choose_dtype

    if not shard:
        return inputs.shape.open(inputs.model.source)
    dtype = choose_dtype(inputs.options.section, best_device())
    return inputs.shape.open_sharded(inputs.model.source, dtype)
