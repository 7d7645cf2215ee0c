"""A tiny dense model, its trajectories and a student for loops; run as a script, a worker.

    python tiny_loops.py FOLDER RESULT '{"steps": 9}'

makes the trajectories in FOLDER/trajectories, trains in FOLDER and writes the final weights to
RESULT and the losses beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from diffusers import DDPMScheduler

from diffc.data.clean import CleanSet
from diffc.distill.loop.lesson import LoopLesson
from diffc.distill.loop.path import dense_path
from diffc.distill.loop.steps import LoopSteps, loop_steps, sampler_settings, student_scheduler
from diffc.distill.loop.trajectories import TrajectoryPlan, TrajectorySet, make_trajectories
from diffc.distill.run import DistillResult, TrainingSettings
from diffc.distill.train import train
from diffc.models.denoiser import Denoiser, denoiser_of
from diffc.models.families.unet2d import FAMILY
from diffc.recipe import LoopTrainingSection
from diffc_export.events import Work, drain
from diffc_runtime.loop import Loop
from support.tiny_training import clean, unet

CONFIG = {
    **DDPMScheduler(clip_sample=False, prediction_type="v_prediction").config,
    "_class_name": "DDPMScheduler",
}
"""Of v, which a random network gives without an end of hundreds of deviations."""
SHAPE = (1, 8, 8)


def dense() -> Denoiser:
    return denoiser_of(unet(8, seed=0), FAMILY, CONFIG)


def student() -> Denoiser:
    return denoiser_of(unet(4, seed=1), FAMILY, CONFIG)


def steps_of(*counts: int) -> list[LoopSteps]:
    settings = sampler_settings(student_scheduler(CONFIG), SHAPE)
    return [loop_steps(Loop("ddim", n, 1.0, "trailing"), settings) for n in counts]


def plan(counts=(1, 2), count: int = 12, steps: int = 4, **changes) -> TrajectoryPlan:
    loops = (loop.times for loop in steps_of(*counts))
    path = dense_path(loops, sampler_settings(CONFIG, SHAPE), steps)
    return TrajectoryPlan(path, count, **changes)


def trajectories(
    folder: Path, counts=(1, 2), data: CleanSet | None = None, **changes
) -> TrajectorySet:
    data = clean() if data is None else data
    drain(make_trajectories(dense(), data, plan(counts, **changes), folder))
    return TrajectorySet.load(folder, data)


def options(**changes) -> LoopTrainingSection:
    base = {"steps": 6, "batch": 4, "precision": "fp32", "checkpoint_every": 2, "warmup": 2}
    return LoopTrainingSection.model_validate({**base, **changes})


def lesson(folder: Path, learner: Denoiser, counts=(1, 2), **changes) -> LoopLesson:
    made = trajectories(folder / "trajectories", counts)
    return LoopLesson(learner, made, steps_of(*counts), options(**changes), dense=dense())


def work(folder: Path, learner: Denoiser, counts=(1, 2), **changes) -> Work[DistillResult]:
    subject = lesson(folder, learner, counts, **changes)
    return train(subject, learner.model, TrainingSettings(options(**changes), folder))


def main() -> None:
    """See the top."""
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    folder, result, changes = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    learner = student()
    done = drain(work(folder, learner, **changes))
    save_file({name: p.contiguous() for name, p in learner.model.state_dict().items()}, result)
    report = {"losses": done.losses, "resumed_from": done.resumed_from, "notes": done.notes,
              "processes": done.processes}  # fmt: skip
    result.with_suffix(".json").write_text(json.dumps(report))


if __name__ == "__main__":
    main()
