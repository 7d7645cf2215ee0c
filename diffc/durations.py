"""How long stages and calls took here before, so that a run can say when it will be done.

One file for each kind of run in the cache (``durations/KEY.json``): the seconds of each stage. Runs
are of one kind if they are of the same model, with the same options but for the ratio, the seed and
the number of distillation steps, on the same processor. Steps are proportional to time; a ratio
changes little of it, unless it is 0: then nothing is trained.

Where no such run was, ``rates/KEY.json`` has what the network's calls take here
(diffc/stages/call_rate.py), from which diffc/stages/estimate.py estimates the stages.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from diffc.recipe import Recipe
from diffc_export.cache import cache_folder
from diffc_runtime.files import write_text
from diffc_runtime.json_types import JsonObject
from diffc_runtime.machine.cpu import cpu_fingerprint
from diffc_runtime.machine.gpu import gpus

_PER_STEP = "distill"
"""The stage whose time is proportional to the recipe's distillation steps."""


class StageTime(Protocol):
    """A stage that is done, and how long it took when it was."""

    @property
    def name(self) -> str:
        """The stage's name."""

    @property
    def seconds(self) -> float:
        """How long the work took."""


def expected_seconds(digest: str, recipe: Recipe, stop: str) -> dict[str, float]:
    """What each stage took in the latest run of the same kind, in the order of stages.

    Args:
        digest: Of the dense model.
        recipe: Every option.
        stop: The last stage.

    Returns:
        Seconds by the stage's name; empty where there was no such run.
    """
    try:
        stored = json.loads(_file(digest, recipe, stop).read_text("utf-8"))
        seconds = {str(name): float(value) for name, value in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # damaged is as good as none
        return {}
    if not all(math.isfinite(value) and value >= 0 for value in seconds.values()):
        return {}
    if _PER_STEP in seconds:
        seconds[_PER_STEP] *= recipe.distill.steps
    return seconds


def keep_seconds(digest: str, recipe: Recipe, stop: str, done: Iterable[StageTime]) -> None:
    """Store what the stages of a whole run took, for ``expected_seconds``."""
    seconds = {stage.name: stage.seconds for stage in done}
    if _PER_STEP in seconds:
        if not recipe.distill.steps:
            return  # without a step there is no time for one
        seconds[_PER_STEP] /= recipe.distill.steps
    write_text(_file(digest, recipe, stop), json.dumps(seconds, indent=1) + "\n")


@dataclass(frozen=True)
class Rate:
    """What calls of a network take on this machine, as measured.

    Attributes:
        call_seconds: One row of a forward pass.
        training_seconds: One row of a forward and a backward pass.
        params: The network's parameters.
        shared: Whether other programs were at work meanwhile: on a quiet machine calls take less.
    """

    call_seconds: float
    training_seconds: float
    params: int
    shared: bool = False

    @property
    def words(self) -> str:
        """What an estimate by this rate is made from."""
        return "the rate of its calls" + (", timed while other programs ran" * self.shared)


def known_rate(class_name: str, config: JsonObject, recipe: Recipe) -> Rate | None:
    """The rate of a network on this machine; None where it was not measured yet."""
    try:
        rate = Rate(**json.loads(_rate_file(class_name, config, recipe).read_text("utf-8")))
        valid = all(math.isfinite(one) and one > 0 for one in (rate.call_seconds, rate.params))
        return rate if valid and math.isfinite(rate.training_seconds) else None
    except (OSError, ValueError, TypeError):  # damaged is as good as none
        return None


def keep_rate(class_name: str, config: JsonObject, recipe: Recipe, rate: Rate) -> None:
    """Store what was measured, for ``known_rate``; a disk that takes no more keeps nothing."""
    with suppress(OSError):
        path = _rate_file(class_name, config, recipe)
        write_text(path, json.dumps(asdict(rate), indent=1) + "\n")


def _rate_file(class_name: str, config: JsonObject, recipe: Recipe) -> Path:
    """A rate follows from the network's shape, the size of its input, and the machine."""
    cards = [gpu.name for gpu in gpus()]
    value: list[object] = [class_name, config, recipe.export.size, _machine(), cards]
    key = hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
    return cache_folder() / "durations" / "rates" / f"{key[:32]}.json"


def _file(digest: str, recipe: Recipe, stop: str) -> Path:
    options = recipe.model_dump(mode="json", exclude={"check", "seed"})
    options["prune"].pop("ratio")
    options["distill"].pop("steps")
    options["cuts"] = not recipe.prune.removes_nothing  # what no cut has changed is not trained
    value: list[object] = [digest, options, stop, _machine()]
    key = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "durations" / f"{key[:32]}.json"


def _machine() -> Mapping[str, object]:
    return dict(cpu_fingerprint())
