"""How long the stages of an earlier run took here, so that a run can say when it will be done.

One file for each kind of run in the cache (``durations/KEY.json``): the seconds of each stage. Runs
are of one kind if they are of the same model, with the same options but for the ratio, the seed and
the number of distillation steps, on the same processor. Steps are proportional to time; a ratio
changes little of it. A run of which nothing was measured before has no estimate.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from diffc.recipe import Recipe
from diffc_export.cache import cache_folder
from diffc_runtime.files import write_text
from diffc_runtime.machine.cpu import cpu_fingerprint

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


def _file(digest: str, recipe: Recipe, stop: str) -> Path:
    options = recipe.model_dump(mode="json", exclude={"check", "seed"})
    options["prune"].pop("ratio")
    options["distill"].pop("steps")
    value: list[object] = [digest, options, stop, _machine()]
    key = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "durations" / f"{key[:32]}.json"


def _machine() -> Mapping[str, object]:
    return dict(cpu_fingerprint())
