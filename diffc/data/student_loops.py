"""The loops that a student can be distilled for, as it serves them. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from diffc.errors import RequestError
from diffc.models.schedulers import is_flow, train_steps
from diffc_runtime.json_types import JsonObject
from diffc_runtime.loop import DETERMINISTIC, Loop
from diffc_runtime.schedulers import deterministic_name

SPACING = "trailing"
"""The spacing of a loop that names none: its first timestep is the last trained one, where a sample
is noise (Lin et al. 2023, 2305.08891)."""


@dataclass(frozen=True)
class StudentLoops:
    """The loops of one student.

    Attributes:
        loops: As it serves them, in the order of the recipe.
        guidance: The scale of classifier-free guidance that it carries; 1 for none.
    """

    loops: tuple[Loop, ...]
    guidance: float


def student_loops(texts: Sequence[str], config: JsonObject, guidance: float) -> StudentLoops:
    """Return the loops of a recipe as a student that was distilled for them serves them.

    Args:
        texts: The recipe's ``loops``.
        config: The dense model's scheduler config.
        guidance: Of loops that say nothing; 1 where there are no null conditions.

    Raises:
        RequestError: There is no loop, no student can learn one of them, or loops of several
            guidances or spacings: a student has one function of the noise.
    """
    if not texts:
        raise RequestError(
            "a student that is distilled for its loop needs one",
            hint=f"--loop {deterministic_name(config)}:1 for a single call, or --loop own:2",
        )
    loops = [Loop.parse(text) for text in texts]
    served = tuple(dict.fromkeys(student_loop(loop, config) for loop in loops))
    scales = sorted({guidance if loop.guidance is None else loop.guidance for loop in loops})
    if len(scales) > 1:
        words = " and ".join(f"{scale:g}" for scale in scales)
        raise RequestError(f"one student cannot carry several guidances: {words}")
    spacings = sorted({str(loop.spacing) for loop in served})
    if len(spacings) > 1:
        raise RequestError(f"the loops of one student have one spacing: {' and '.join(spacings)}")
    return StudentLoops(served, scales[0])


def student_loop(loop: Loop, config: JsonObject) -> Loop:
    """Return ``loop`` as a student that was distilled for it serves it: one call a step, since the
    student carries the guidance.

    Args:
        loop: What the user asks for. Sampler and spacing may be left open.
        config: The dense model's scheduler config.

    Raises:
        RequestError: The sampler's steps are not linear in one output, or the steps are left open,
            or are more than the model has timesteps.
    """
    sampler = deterministic_name(config)
    if loop.sampler not in (None, DETERMINISTIC, sampler):
        raise RequestError(
            f"a student cannot be distilled for the loop '{loop}': a step of {loop.sampler} does "
            "not follow from one output of the model alone",
            hint=f"--loop {sampler}:{loop.steps or 4}; or --distill-for all-steps",
        )
    if loop.steps is None:
        raise RequestError(
            f"a student cannot be distilled for the loop '{loop}' without a number of steps",
            hint=f"--loop {sampler}:4",
        )
    if loop.steps > train_steps(config):
        raise RequestError(
            f"the loop '{loop}' has more steps than the model has timesteps ({train_steps(config)})"
        )
    spacing = None if is_flow(config) else loop.spacing or SPACING
    return replace(loop, sampler=sampler, guidance=1.0, spacing=spacing)
