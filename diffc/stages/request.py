"""One run of the stages, as a verb asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffc.errors import unknown
from diffc.models.source import Source
from diffc.recipe import Recipe
from diffc.stages.finished import Over

STOPS = ("plan", "prune", "distill", "export", "build", "bench")
"""Where a run may stop; each includes all before it."""
EVALUATION = "eval"
"""The part of a run that judges samples once more."""


@dataclass(frozen=True)
class Request:
    """One run.

    Attributes:
        source: The model.
        recipe: Every option.
        out: The output folder.
        stop: The last stage wanted, of ``STOPS``.
        fresh: True does again what is cached, from ``begins`` on.
        begins: The first part of the run that the verb itself is for, of ``STOPS``; or
            ``EVALUATION``. What comes before is the folder's, and is never done again for
            ``fresh``: it may be a training of days.
        command: How to say it again.
        over: What becomes of a finished run of another request in ``out``.
        evaluation: How samples are judged once more, beside the run's own; None: they are not.
        estimated: Whether somebody waits for how long the run will take: where nothing tells that
            yet, calls of the network are timed first.
    """

    source: Source
    recipe: Recipe
    out: Path
    stop: str = "bench"
    fresh: bool = False
    begins: str = STOPS[0]
    command: str | None = None
    over: Over = "goes on"
    evaluation: Recipe | None = None
    estimated: bool = False

    def __post_init__(self) -> None:
        if self.stop not in STOPS:
            raise unknown("stage", self.stop, STOPS)

    def is_anew(self, part: str) -> bool:
        """Whether the stages of a part are done again though they are cached.

        Args:
            part: Of ``STOPS``, or ``EVALUATION``.
        """
        parts = (*STOPS, EVALUATION)
        return self.fresh and parts.index(part) >= parts.index(self.begins)
