"""The loss at noise that no step of the training had, of a student before and after it.

A repair in closed form leaves a student near the dense model; a short training at a high learning
rate then takes it away, and ends before it is back. The curve of the loss does not show that where
its first step is the best one, so both ends are compared on the same rows, and the better one is
taken.
"""

from __future__ import annotations

import torch

from diffc.data.clean import CleanSet
from diffc.data.precision import best_device, channels_last
from diffc.distill.all_steps import AllSteps, ModelPair
from diffc.distill.setup import choose_dtype
from diffc.recipe import DistillSection

ROWS = 32
"""The rows of a loss, at least."""


def fresh_loss(pair: ModelPair, clean: CleanSet, options: DistillSection, seed: int) -> float:
    """The mean loss of ``pair.student``, one row at a time, so that it fits where training did.

    Args:
        pair: Teacher and student; both move to the device that trains, and else stay as they are.
        clean: The samples of the training.
        options: Those of the training: rows are of steps beyond its last one.
        seed: That of the training.
    """
    device = best_device()
    lesson, losses = AllSteps(pair, clean, options, seed), list[float]()
    lesson.open(pair.student, device, choose_dtype(options, device))
    step, was_training = options.steps, pair.student.training
    try:
        for model in (pair.teacher.model, pair.student):
            model.to(device).eval()
        channels_last(pair.teacher.model)  # as training has it (setup.prepare_models)
        with torch.no_grad():
            while len(losses) < ROWS:
                batch = lesson.draw(step, range(min(options.batch, ROWS)))
                rows = batch.pieces(len(batch))
                losses += [float(lesson.loss(pair.student, row)) for row in rows]
                step += 1
    finally:
        lesson.close()
        pair.student.train(was_training)
    return sum(losses) / len(losses)


def why_not_taken(before: float, after: float, steps: int) -> str | None:
    """What to say of a training that took a student away from the dense model; None otherwise.

    Args:
        before: The student's fresh loss before the training.
        after: The same after it; NaN is no improvement.
        steps: Of the training.
    """
    if after <= before:
        return None
    return (
        "the training made the model worse, so the model from before it was taken: at noise that "
        f"no step had, the loss was {before:.3g} before the {steps} steps and {after:.3g} after "
        "them; try a smaller distill.learning_rate"
    )
