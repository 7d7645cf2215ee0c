"""One trial: a model in a folder of the cache, its ONNX files, and its engines.

A trial is the same stages as a run has, so whatever several trials share is done once, and a trial
that was killed goes on from its last checkpoint. Its folder is removed when the search is over; the
stages stay in the cache.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from diffc.errors import DiffcError
from diffc.models.source import Source
from diffc.output import is_output, reference_file, write_lock
from diffc.recipe import Recipe
from diffc.runner import StageEvent, StageRunner
from diffc.stage_inputs import FileInput
from diffc.stages.build import engine_stages
from diffc.stages.order import compress, export
from diffc.stages.precision_auto import engine_input
from diffc.stages.request import Request
from diffc.trials.results import TrialRecord
from diffc.trials.space import Choice
from diffc_export.cache import cache_folder

Kind: TypeAlias = Literal["untrained", "short", "whole"]
_SHORT = 8
"""A short training has one step of so many."""
_LEAST_SHORT = 5
_TRAINING = ("distill", "trajectories", "distill-loop")


@dataclass(frozen=True)
class PlannedTrial:
    """One training, or none.

    Attributes:
        choice: The values that it is for.
        kind: How much of the training is done.
        request: The run.
        whole: The recipe of the whole training.
    """

    choice: Choice
    kind: Kind
    request: Request
    whole: Recipe


@dataclass(frozen=True)
class TrialDone:
    """A trial's files.

    Attributes:
        trial: Which.
        runner: What keeps its stages from being cleaned away.
        record: What the training cost.
    """

    trial: PlannedTrial
    runner: StageRunner
    record: TrialRecord

    @property
    def out(self) -> Path:
        """The folder."""
        return self.trial.request.out

    @property
    def torch(self) -> FileInput:
        """What torch gave, for parity of the compressed engines."""
        return FileInput.of(reference_file(self.out, "compressed"))


@dataclass(frozen=True)
class Engines:
    """The engines of one trial in one precision.

    Attributes:
        sides: Side -> its engine folder in the cache; empty where there is none.
        absent: Why there is none.
    """

    sides: Mapping[str, FileInput]
    absent: str | None = None


def trial_recipe(recipe: Recipe, kind: Kind) -> Recipe:
    """The recipe of a trial of this kind, from that of the whole training."""
    if kind == "whole":
        return recipe
    distill = recipe.distill
    if kind == "untrained":
        none = distill.model_copy(update={"steps": 0, "aim": "all-steps"})
        return recipe.model_copy(update={"distill": none, "loops": ()})
    loop = distill.loop.model_copy(update={"steps": distill.loop.steps // _SHORT})
    update = {"steps": distill.steps // _SHORT, "loop": loop}
    return recipe.model_copy(update={"distill": distill.model_copy(update=update)})


def has_short(recipe: Recipe) -> bool:
    """Whether a short training says anything of the whole one."""
    distill = recipe.distill
    steps = distill.loop.steps if distill.aim == "loop" else distill.steps
    return steps // _SHORT >= _LEAST_SHORT


def trial_of(
    source: Source, recipe: Recipe, choice: Choice, kind: Kind, home: Path
) -> PlannedTrial:
    """A trial.

    Args:
        source: The dense model.
        recipe: Of the whole training.
        choice: The values that it is for.
        kind: How much of the training is done.
        home: The folder of the search's trials.
    """
    name = "-".join([*(word.replace("/", "_") for _, word in choice), kind])
    request = Request(source, trial_recipe(recipe, kind), home / name, "export")
    return PlannedTrial(choice, kind, request, recipe)


def run_trial(trial: PlannedTrial) -> Generator[StageEvent, None, TrialDone]:
    """The stages from the data to both ONNX files."""
    request = trial.request
    out = request.out
    if not is_output(out):
        out.mkdir(parents=True, exist_ok=True)
        write_lock(out, request.source, request.recipe, {})
    runner = StageRunner(out, cache_folder())
    done = yield from compress(runner, request)
    assert done is not None
    yield from export(runner, request, done)
    training = [one for one in runner.done if one.name in _TRAINING]
    distill = request.recipe.distill
    steps = distill.steps + (distill.loop.steps if distill.aim == "loop" else 0)
    record = TrialRecord(
        values=dict(trial.choice),
        steps=steps,
        seconds=sum(one.seconds for one in training),
        short=trial.kind == "short",
        stages={one.key: one.seconds for one in training},
    )
    return TrialDone(trial, runner, record)


def build_engines(
    done: TrialDone, recipes: Mapping[str, Recipe], target: str
) -> Generator[StageEvent, None, dict[str, Engines]]:
    """The engines of a trial in several precisions.

    Args:
        done: The trial.
        recipes: Precision -> the recipe of one target in it.
        target: The target.
    """
    engines = {}
    for precision, recipe in recipes.items():
        try:
            folders = yield from engine_stages(done.runner, recipe, target)
        except DiffcError as error:
            engines[precision] = Engines({}, str(error))
        else:
            sides = {side: engine_input(folder) for side, folder in folders.items()}
            engines[precision] = Engines(sides)
    return engines


def distinct(choices: Sequence[Choice]) -> list[Choice]:
    """Each once, in order."""
    return list(dict.fromkeys(choices))
