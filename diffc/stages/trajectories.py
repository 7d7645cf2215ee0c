"""The trajectories stage: the dense model's way from noise, for students that learn a loop.

It reads nothing of the cut, so that another ratio takes the same trajectories again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffc.data.guidance import decide_guidance
from diffc.data.student_loops import student_loops
from diffc.models.source import Source
from diffc.recipe import Recipe
from diffc.recipe.sections.training import WEIGHT_BYTES
from diffc.runner import Stage, StageFolder, StageResult
from diffc.stage_inputs import ModelInput, RunShape
from diffc.stage_outcomes import DataOutcome, TrajectoriesOutcome
from diffc.stage_records import STATE
from diffc.stages.data import CLEAN, DRAWN_STATES, model_packages
from diffc_export.events import Work
from diffc_runtime.loop import Loop

if TYPE_CHECKING:
    from diffc.data.states import DrawnStates
    from diffc.distill.loop.path import DensePath

TRAJECTORIES = "trajectories"


@dataclass(frozen=True)
class TrajectoriesInputs:
    """What trajectories follow from.

    Attributes:
        model: The dense model.
        data: The conditions and null conditions.
        loops: The loops whose timesteps are visited.
        guidance: The scale of classifier-free guidance that the trajectories are made with.
        count: How many.
        steps: About how many calls of the network each of them has.
        shape: What the denoiser's inputs are like.
        seed: Of the noise.
    """

    model: ModelInput
    data: StageResult[DataOutcome]
    loops: tuple[Loop, ...]
    guidance: float
    count: int
    steps: int
    shape: RunShape
    seed: int


def trajectories_stage(
    source: Source, recipe: Recipe, data: StageResult[DataOutcome]
) -> Stage[TrajectoriesInputs, TrajectoriesOutcome]:
    """The dense model's trajectories."""
    usual = decide_guidance(source, recipe.data.guidance).scale if data.result.null else 1.0
    student = student_loops(recipe.loops, source.scheduler, usual)
    options = recipe.distill.loop
    inputs = TrajectoriesInputs(
        model=ModelInput.denoiser(source),
        data=data,
        loops=student.loops,
        guidance=student.guidance if data.result.null else 1.0,
        count=options.trajectories,
        steps=options.teacher_steps,
        shape=RunShape.of(recipe),
        seed=recipe.seed,
    )
    places = {TRAJECTORIES: f"{STATE}/{TRAJECTORIES}"}
    return Stage(
        "trajectories", 2, inputs, make, TrajectoriesOutcome, places, model_packages(source),
        collective=True,
    )  # fmt: skip


def make(inputs: TrajectoriesInputs, folder: StageFolder) -> Work[TrajectoriesOutcome]:
    """Make what is not yet in the scratch folder, and take it out of there."""
    from diffc.data.clean import CleanSet
    from diffc.data.precision import best_device, fast_dtype
    from diffc.data.processes import process_share
    from diffc.distill.loop.path import dense_path
    from diffc.distill.loop.steps import loop_steps, sampler_settings, student_scheduler
    from diffc.distill.loop.trajectories import TrajectoryPlan, make_trajectories

    source = inputs.model.source
    if inputs.shape.wants_sharding((source, WEIGHT_BYTES)):
        dense = inputs.shape.open_sharded(source, fast_dtype(best_device()))
    else:
        dense = inputs.shape.open(source)
    shape = dense.sample_shape
    settings = sampler_settings(student_scheduler(source.scheduler), shape)
    visited = [loop_steps(loop, settings).times for loop in inputs.loops]
    path = dense_path(visited, sampler_settings(source.scheduler, shape), inputs.steps)
    drawn = _drawn(inputs, path, shape)
    plan = TrajectoryPlan(path, inputs.count, inputs.guidance, inputs.seed, drawn=drawn)
    clean = CleanSet.load(inputs.data.folder / CLEAN)
    calls = yield from make_trajectories(dense, clean, plan, folder.scratch / TRAJECTORIES)
    if process_share()[0] == 0:
        shutil.move(folder.scratch / TRAJECTORIES, folder.out / TRAJECTORIES)
    return TrajectoriesOutcome(
        count=inputs.count,
        steps=len(path.times),
        guidance=inputs.guidance,
        calls=calls,
        drawn=plan.drawn_count,
    )


def _drawn(inputs: TrajectoriesInputs, path: DensePath, shape: Sequence[int]) -> DrawnStates | None:
    """The states of the clean samples, where these went the same way; else None."""
    from diffc.data.sampling import accurate_loop
    from diffc.data.states import DrawnStates
    from diffc.distill.loop.path import goes_along

    file = inputs.data.folder / DRAWN_STATES
    if not file.exists():
        return None
    drawn, config = DrawnStates.load(file), inputs.model.source.scheduler
    loop = accurate_loop(config, len(drawn.times), shape)
    is_same = drawn.guidance == inputs.guidance and goes_along(loop.trajectory(shape), path)
    return drawn if is_same else None
