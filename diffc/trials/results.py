"""What a search found, as OUT/search.json and ``--json`` hold it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from diffc.measure.frontier.results import Frontier, Point
from diffc.measure.results import Speedup

SCHEMA_VERSION = 1


class _SearchPart(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TrialRecord(_SearchPart):
    """One training.

    Attributes:
        values: Axis -> word, of the axes that the training is for.
        steps: Of the optimiser.
        seconds: Of the training alone, now or when it was done.
        short: Whether it was there to choose among trials alone.
        stages: The key of each of its stages -> its seconds; trials share some of them.
    """

    values: dict[str, str]
    steps: int
    seconds: float
    short: bool = False
    stages: dict[str, float] = Field(default_factory=dict)


class CandidateResult(_SearchPart):
    """One candidate that was measured after its training.

    Attributes:
        values: Axis -> word.
        point: Its loop's time and figures.
        speedup: Over the dense model's reference loop, by pairs of the same round.
        memory_bytes: At the peak of its engine; None where no goal needs it.
        distance: Times the dense model's own distance to the data; None where no goal needs it.
        reaches: Whether it reaches every goal.
        missed: The goals that it misses, in words.
    """

    values: dict[str, str]
    point: Point
    speedup: Speedup | None = None
    memory_bytes: float | None = None
    distance: float | None = None
    reaches: bool
    missed: list[str] = Field(default_factory=list)

    @property
    def name(self) -> str:
        """'0.35 fp16 dpm++:8'."""
        return " ".join(self.values.values())


class Untried(_SearchPart):
    """A candidate for which nothing was trained.

    Attributes:
        values: Axis -> word.
        why: What spared it, and whether that was measured or expected.
        latency_ms: Its loop's time, which needs no training.
    """

    values: dict[str, str]
    why: str
    latency_ms: float | None = None


class SearchResult(_SearchPart):
    """A search.

    Attributes:
        schema_version: Of this form.
        request: The hash of what was wanted.
        model: The model.
        target: Where it runs.
        goals: Goal -> its value: milliseconds, bytes, factors.
        goal_words: The goals in words.
        axes: Axis -> the values that were searched over.
        frontier: The trained candidates' loops and the dense model's, timed in turn.
        candidates: Every candidate that was measured after its training, the fastest first.
        untried: The others.
        trials: The trainings, in their order.
        chosen: The winner's values; None where no candidate reaches the goals.
        nearest: Otherwise the values of the candidate that misses them by least.
        command: What compiles the winner, or the nearest, alone.
        out: The winner's output folder; None where there is none.
    """

    schema_version: int = SCHEMA_VERSION
    request: str
    model: str
    target: str
    goals: dict[str, float]
    goal_words: list[str]
    axes: dict[str, list[str]]
    frontier: Frontier
    candidates: list[CandidateResult]
    untried: list[Untried]
    trials: list[TrialRecord]
    chosen: dict[str, str] | None = None
    nearest: dict[str, str] | None = None
    command: str
    out: str | None = None

    def __repr__(self) -> str:
        """One line: the winner and its folder; ``model_dump`` has everything."""
        named = self.chosen or self.nearest or {}
        words = " ".join(named.values()) or "nothing"
        what = f"{words} chosen" if self.chosen else f"goals missed, {words} is nearest"
        place = f" in {self.out}" if self.out else ""
        tried = f"{len(self.candidates)} measured, {len(self.untried)} not"
        return f"<SearchResult of {self.model} on {self.target}: {what}{place}, {tried}>"

    __str__ = __repr__

    def candidate(self, values: dict[str, str] | None) -> CandidateResult | None:
        """The candidate of these values."""
        return next((one for one in self.candidates if one.values == values), None)
