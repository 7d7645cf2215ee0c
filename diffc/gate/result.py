"""The result of a check, in the form of its JSON. Every other output is made from it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from diffc.gate.rule import Verdict
from diffc_runtime.files import path_text
from diffc_runtime.json_types import JsonDict

SCHEMA_VERSION = 1
EXIT = {"pass": 0, "regressed": 1, "inconclusive": 3, "unfit": 4}


class _ResultPart(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Figure(_ResultPart):
    """One figure of one engine, judged.

    Attributes:
        target: The engine's target; ``samples`` for a figure of the samples.
        precision: The precision that the engine was built for.
        batch: The batch size; None: the engine as a whole.
        name: latency p50, latency mean, loop p50, peak memory, engine size, build time, parity,
            a metric's title such as SSIM; output (with values that are not numbers), engine (that
            the baseline has and the candidate lost).
        verdict: What the gate decided.
        unit: ms, bytes, s, a metric's own, or empty.
        baseline: The baseline's value; of times, the median or the mean of all that it took.
        candidate: The candidate's value, of its own times alone too.
        ratio: Candidate over baseline. Of times it is over pairs of calls in turn (of the two
            medians where the baseline is stored figures), and it decides: it can lie on the other
            side of 1 than ``candidate / baseline``.
        ci99: The 99 % interval of ``ratio``.
        pairs: The number of pairs behind ``ratio``.
        limit: The limit in words.
        note: Why it is absent or inconclusive, or in what the two values differ by origin.
        samples_ms: Side -> every single time in milliseconds.
    """

    target: str
    precision: str
    batch: int | None
    name: str
    verdict: Verdict
    unit: str = ""
    baseline: float | None = None
    candidate: float | None = None
    ratio: float | None = None
    ci99: tuple[float, float] | None = None
    pairs: int | None = None
    limit: str | None = None
    note: str = ""
    samples_ms: dict[str, list[float]] | None = None


class SelfComparison(_ResultPart):
    """The baseline compared with itself: the least difference that this machine shows now."""

    target: str
    precision: str
    batch: int
    verdict: Verdict
    ratio: float
    ci99: tuple[float, float]
    pairs: int
    spread: float


class Side(_ResultPart):
    """One of the two things that were compared."""

    path: str
    kind: str
    model: str
    digest: str | None = None


class CheckResult(_ResultPart):
    """A whole check.

    Attributes:
        weaker: The baseline was not measured again.
        seconds: How long the check took.
    """

    schema_version: int = SCHEMA_VERSION
    diffc: str
    created: str
    verdict: Verdict
    exit_code: int
    candidate: Side
    baseline: Side
    weaker: bool = False
    figures: list[Figure]
    noise: list[SelfComparison] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    seconds: float
    environment: JsonDict

    @property
    def absent(self) -> list[Figure]:
        """The figures that could not be measured, each with the reason as its note."""
        return [figure for figure in self.figures if figure.verdict == "absent"]

    @property
    def worst(self) -> list[Figure]:
        """The figures that did not pass, the regressions first."""
        order = ("regressed", "unfit", "inconclusive")
        bad = [figure for figure in self.figures if figure.verdict in order]
        return sorted(bad, key=lambda f: (order.index(f.verdict), -(f.ratio or 0.0)))


def overall(figures: list[Figure]) -> Verdict:
    """The verdict on all figures: one regression decides, whatever else could not be judged."""
    verdicts = {figure.verdict for figure in figures}
    order: tuple[Verdict, ...] = ("regressed", "unfit", "inconclusive")
    return next((verdict for verdict in order if verdict in verdicts), "pass")


def side(path: Path, kind: str, model: str, digest: str | None) -> Side:
    """A side as the result names it."""
    return Side(path=path_text(path), kind=kind, model=model, digest=digest)
